#!/bin/bash
# One node, with as many processes as it has GPUs for this job.
#   CFG=configs/Kinetics/TimeSformer_divST_8x32_224.yaml sbatch --gpus-per-node=8 --cpus-per-task=80 \
#     slurm_scripts/run_single_node_job.sh [KEY VALUE ...]
#   CFG=configs/quickstart/video.yaml NUM_GPUS=0 OUTPUT_DIR=runs/try sbatch slurm_scripts/run_single_node_job.sh
# Variables: CFG (one configuration or several, run in order), OUTPUT_DIR, NUM_GPUS, NUM_PROCS_PER_NODE (on CPUs),
# DUST (the command, if dust is not on the PATH). Partition, account, time and so on: options of sbatch.
# Before the time limit, and when it is preempted, the job saves, is queued again and goes on from there.
#SBATCH --job-name=dust
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=72:00:00
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
set -euo pipefail
if [ -z "${CFG:-}" ]; then
  echo "usage: CFG=FILE.yaml [OUTPUT_DIR=... NUM_GPUS=...] sbatch [options] $0 [KEY VALUE ...]" >&2
  exit 2
fi
# Slurm runs a copy of this file, so the configurations are where the job was submitted
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
NUM_GPUS=${NUM_GPUS:-${SLURM_GPUS_ON_NODE:-}}
for key in NUM_GPUS NUM_PROCS_PER_NODE OUTPUT_DIR; do
  if [ -n "${!key:-}" ]; then set -- "$@" "$key" "${!key}"; fi
done
# a single task: it starts the node's processes itself
# until the command takes them, signals wait (env of coreutils 8.31 or newer) instead of ending it
hold="env --block-signal=TERM --block-signal=USR1 --block-signal=USR2"
$hold true 2>/dev/null || hold=
exec srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" --kill-on-bad-exit=1 --open-mode=append \
  $hold ${DUST:-dust} --cfg $CFG --opts "$@"
