#!/bin/sh
# One step at full size beside PyTorch, with random weights: DiT-XL/2-256, AutoencoderKL and ConvNeXt-L on one image, 2 threads.
#
#     tests/full_step.sh DTTA PYTHON FOLDER
#
# FOLDER receives weights (3.9 GB) and runs; PYTHON has torch, torchvision, diffusers and timm. Both programs make 2 and 6 draws, in turns,
# with the denoiser frozen: a quarter of the difference is what a draw takes. Then dtta makes the whole step of the paper, which adapts
# the denoiser, too. Needs GNU time, 16 GiB of memory and an idle machine.
set -eu
dtta=$1 python=$2 folder=$3
here=$(cd "$(dirname "$0")" && pwd)
script=$here/reference/full_step.py
export RAYON_NUM_THREADS=2
[ -e "$folder/experiment.json" ] || "$python" "$script" make "$folder"

step() {
    command time -f "%M" -o "$folder/peak" "$dtta" run "$folder/experiment.json" --device cpu --force --out "$folder/run" \
        --set method.draws="$1" --set method.micro_batch="$2" $3 >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
    seconds=$(sed -E 's/.*"milliseconds":([0-9.]+).*/\1/' "$folder/run/records.jsonl" | awk '{ print $1 / 1000 }')
    echo "dtta: $1 draws, micro-batch $2, ${3:-denoiser adapted}: $seconds s, peak $(awk '{ printf "%.1f", $1 / 1048576 }' "$folder/peak") GiB"
}

for micro_batch in ${MICRO_BATCHES:-1 2}; do
    for draws in 2 6; do
        step "$draws" "$micro_batch" "--set method.denoiser=null"
        "$python" "$script" step "$folder" "$draws" "$micro_batch" 2
    done
done
step 2 1 ""
