#!/bin/bash
# KeyStep up to the temporal encoder: frame encoder, embeddings, temporal encoder and its test. What is finished is
# passed over, what was interrupted goes on. With Slurm or without it:
#   sbatch slurm_scripts/keystep_temporal.sh industreal DATA RUNS [KEY VALUE ...]
#   bash slurm_scripts/keystep_temporal.sh quickstart data/quickstart_keystep runs/keystep
#SBATCH --job-name=keystep_temporal
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --time=48:00:00
#SBATCH --requeue
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 industreal|meccano|quickstart DATA RUNS [KEY VALUE ...]" >&2
  exit 2
fi
what=$1 data=$2 runs=$3
shift 3
# Slurm runs a copy of this file, so the configurations are where the job was submitted
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
case $what in
  quickstart) prefix=configs/quickstart/keystep ;;
  *) prefix=configs/KeyStep/$what ;;
esac
exec dust --cfg "${prefix}_spatial.yaml" "${prefix}_features.yaml" "${prefix}_temporal.yaml" \
  --opts DATA.PATH_TO_DATA_DIR "$data" OUTPUT_DIR "$runs" "$@"
