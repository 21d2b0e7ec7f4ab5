#!/usr/bin/env bash
# A throw-away Slurm on this machine for tests: several nodes, one slurmd each, on loopback (Debian or Ubuntu, as root).
#   DIR=/tmp/x start_slurm.sh        install what is missing, start, wait until the nodes are idle; again: nothing to do
# DIR: where all its files lie (short: a socket's path has at most 107 letters). NODES (2) of CPUS (4) each, PREFIX of
# their names, PORT (17800) and the NODES ports behind it. Exit code 3: Slurm cannot be installed here.
# Partitions: debug (jobs get a signal and 60 s before they are preempted), low (preempted at once), high (preempts both).
set -euo pipefail
: "${DIR:?}" "${NODES:=2}" "${CPUS:=4}" "${PREFIX:=dustn}" "${PORT:=17800}"
export SLURM_CONF=$DIR/etc/slurm.conf PATH=$PATH:/usr/sbin:/sbin
log() { echo "[slurm] $*" >&2; }
die() { log "ERROR: $*"; for f in "$DIR"/log/*; do echo "== $f"; tail -n 12 "$f"; done >&2 2>/dev/null || true; exit 1; }
alive() { # pid file, program: it runs, has that name and is no zombie (nobody may be there to reap it)
  local pid; [ -s "$1" ] && pid=$(cat "$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] &&
    ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null
}
[ "$(id -u)" = 0 ] || { log "needs root"; exit 3; }

need=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null || need+=(slurm-wlm)
command -v munged >/dev/null || need+=(munge)
if [ ${#need[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { log "neither Slurm nor apt-get"; exit 3; }
  log "installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt=(apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  "${apt[@]}" update -qq >&2 || log "apt-get update failed; trying with the lists that are there"
  "${apt[@]}" install -y -qq --no-install-recommends "${need[@]}" >/dev/null || { log "apt-get failed"; exit 3; }
  hash -r
fi

# ---- configuration
umask 022
mkdir -p "$DIR"/{etc,log,run,spool/ctld,bin}
chmod 755 "$DIR" "$DIR"/*
[ -s "$DIR/etc/munge.key" ] || (umask 077; head -c 1024 /dev/urandom > "$DIR/etc/munge.key")
nodes="$PREFIX[1-$NODES]"
memory=$(awk '/MemTotal/{print int($2/1024)}' /proc/meminfo)  # MB per node: counted, never enforced
version=$(slurmctld -V | sed -E 's/.* ([0-9]+)\.([0-9]+).*/\1\2/')  # 2205
signal=SlurmctldParameters=preempt_send_user_signal                 # up to 22.05
[ "$version" -lt 2302 ] || signal=PreemptParameters=send_user_signal
# cgroups are not touched; the word for that is known to newer releases only
if [ "$version" -ge 2311 ]; then echo CgroupPlugin=disabled; else echo CgroupPlugin=cgroup/v1; fi > "$DIR/etc/cgroup.conf"
cat > "$SLURM_CONF" <<CONF
ClusterName=dusttest
SlurmctldHost=$(hostname -s 2>/dev/null || hostname)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a job that is queued again waits this long + 1 s (by default two minutes; 5 is the least)
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=5
StateSaveLocation=$DIR/spool/ctld
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$signal
JobRequeue=1
KillWait=30
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=60
ReturnToService=2
InactiveLimit=0
MessageTimeout=30
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
PropagateResourceLimits=NONE
NodeName=$nodes NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + NODES))] CPUs=$CPUS RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$nodes Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=low   Nodes=$nodes Default=NO  MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
PartitionName=high  Nodes=$nodes Default=NO  MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
# torch looks the first node's name up
for i in $(seq "$NODES"); do
  getent hosts "$PREFIX$i" >/dev/null || echo "127.0.0.1 $PREFIX$i # $DIR" >> /etc/hosts
done

# ---- daemons
start() { # name, pid file, command
  local name=$1 pid=$2; shift 2
  alive "$pid" "$name" && return 0
  rm -f "$pid"
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 || die "$name did not start"
}
alive "$DIR/run/munged.pid" munged || rm -f "$DIR"/run/munge.sock*
start munged "$DIR/run/munged.pid" munged --force --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.sock" \
  --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munged.seed"
for _ in $(seq 100); do [ -S "$DIR/run/munge.sock" ] && break; sleep 0.1; done
start slurmctld "$DIR/run/slurmctld.pid" slurmctld -f "$SLURM_CONF" -i
for i in $(seq "$NODES"); do
  mkdir -p "$DIR/spool/$PREFIX$i"
  start slurmd "$DIR/run/slurmd.$PREFIX$i.pid" slurmd -f "$SLURM_CONF" -N "$PREFIX$i"
done
for _ in $(seq 300); do
  [ "$(sinfo -h -N -p debug -t idle,mixed,allocated -o %N 2>/dev/null | wc -l)" = "$NODES" ] && exit 0
  sleep 0.2
done
sinfo -N -l >&2 || true
die "the nodes are not up"
