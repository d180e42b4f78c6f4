#!/usr/bin/env bash
# One shard of a run for each task of an array:
#
#   mkdir -p logs
#   sbatch examples/cluster/slurm.sh EXPERIMENT OUT [OPTIONS OF dtta run ...]
#   sbatch --dependency=afterok:JOB --wrap "dtta merge OUT/*-of-8 --out OUT/whole"
#
# A task that is asked to end before its time, or preempted, makes a checkpoint and is queued again; one that is queued again goes on where it
# was, or ends at once where its shard is finished. OUT is on a file system that all nodes share.
#SBATCH --job-name=dtta
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/%A_%a.log
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: sbatch $0 EXPERIMENT OUT [OPTIONS ...]" >&2; exit 2; }
experiment=$1
part=$2/$SLURM_ARRAY_TASK_ID-of-$SLURM_ARRAY_TASK_COUNT
shift 2

"${DTTA:-dtta}" run "$experiment" --shard auto --out "$part" "$@" &
run=$!
# Slurm signals this script, not what it started. `wait` comes back from a signal, too, and is asked again.
trap 'asked=1; kill -TERM "$run"' TERM
while asked=0; wait "$run"; code=$?; [ "$asked" = 1 ]; do :; done

case $code in
    3) exit 0 ;; # done, but samples were skipped: records say which, and `dtta merge` ends with 3 again
    75) scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ;;
esac
exit "$code"
