#!/bin/bash
# Several whole nodes, with as many processes on each as it has GPUs. They find each other by Slurm's environment.
#   CFG=configs/Kinetics/TimeSformer_divST_8x32_224.yaml sbatch --nodes=4 --gpus-per-node=8 \
#     slurm_scripts/run_multi_node_job.sh [KEY VALUE ...]
#   CFG=configs/quickstart/video.yaml NUM_GPUS=0 OUTPUT_DIR=runs/try sbatch slurm_scripts/run_multi_node_job.sh
# Variables: CFG (one configuration or several, run in order), OUTPUT_DIR, NUM_GPUS and NUM_PROCS_PER_NODE (on CPUs) of
# each node, DUST (the command, if dust is not on the PATH), MASTER_PORT (if the one chosen is in use).
# Before the time limit, and when it is preempted, the job saves, is queued again and goes on from there.
#SBATCH --job-name=dust
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=72:00:00
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
set -euo pipefail
if [ -z "${CFG:-}" ]; then
  echo "usage: CFG=FILE.yaml [OUTPUT_DIR=... NUM_GPUS=...] sbatch [--nodes=N] $0 [KEY VALUE ...]" >&2
  exit 2
fi
# Slurm runs a copy of this file, so the configurations are where the job was submitted
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
NUM_GPUS=${NUM_GPUS:-${SLURM_GPUS_ON_NODE:-}}
for key in NUM_GPUS NUM_PROCS_PER_NODE OUTPUT_DIR; do
  if [ -n "${!key:-}" ]; then set -- "$@" "$key" "${!key}"; fi
done
# a task on each node: it starts that node's processes
# until the command takes them, signals wait (env of coreutils 8.31 or newer) instead of ending it
hold="env --block-signal=TERM --block-signal=USR1 --block-signal=USR2"
$hold true 2>/dev/null || hold=
exec srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" --kill-on-bad-exit=1 --open-mode=append \
  $hold ${DUST:-dust} --cfg $CFG --opts "$@"
