#!/usr/bin/env bash
# Stops what start_slurm.sh started in DIR, by its pid files only, and removes DIR.
set -uo pipefail
: "${DIR:?}"
export SLURM_CONF=$DIR/etc/slurm.conf
grep -q '^ClusterName=dusttest$' "$SLURM_CONF" 2>/dev/null || exit 0
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }
stop() { # pid file, program: the number may belong to another program by now
  local pid
  [ -s "$1" ] && pid=$(cat "$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
  kill -TERM "$pid" 2>/dev/null
  for _ in $(seq 50); do gone "$pid" && return 0; sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null
}
jobs=$(timeout 5 squeue -h -o %A 2>/dev/null | sort -u)
if [ -n "$jobs" ]; then
  timeout 5 scancel $jobs
  for _ in $(seq 60); do [ -z "$(timeout 5 squeue -h -o %A 2>/dev/null)" ] && break; sleep 0.2; done
fi
for file in "$DIR"/run/slurmd.*.pid; do stop "$file" slurmd; done
stop "$DIR/run/slurmctld.pid" slurmctld
stop "$DIR/run/munged.pid" munged
if grep -q "# $DIR\$" /etc/hosts; then  # it may be mounted: written, not replaced
  hosts=$(grep -v "# $DIR\$" /etc/hosts)
  printf '%s\n' "$hosts" > /etc/hosts
fi
rm -rf "$DIR"
