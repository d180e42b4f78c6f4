#!/bin/sh
# One step of Stable Diffusion at full size beside diffusers, with random weights, 2 threads, f32, one draw in a call.
#
#     tests/stable_diffusion_step.sh DTTA PYTHON FOLDER [text|controlnet]...
#
# `text` is CLIP ViT-B/32 with Stable Diffusion 2.1-base, `controlnet` SegFormer-B0 with Stable Diffusion 1.5 and a ControlNet, both on images of
# 512 x 512. FOLDER receives weights (5.2 GB) and runs; PYTHON has torch, diffusers and transformers. Both programs make 2 and 6 draws, in
# turns: a quarter of the difference is what a draw takes. dtta makes two calls at once, each on one thread, so that an odd number would leave a
# thread idle at the end. Needs GNU time, 12 GiB of memory and an idle machine.
set -eu
dtta=$1 python=$2 folder=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
script=$here/reference/stable_diffusion_step.py
export RAYON_NUM_THREADS=2 OMP_NUM_THREADS=2
for kind in ${*:-text controlnet}; do
    place=$folder/$kind
    [ -e "$place/experiment.json" ] || "$python" "$script" make "$place" "$kind"
    for draws in 2 6; do
        command time -f "%M" -o "$place/peak" "$dtta" run "$place/experiment.json" --device cpu --force --out "$place/run" \
            --set method.draws="$draws" >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
        seconds=$(sed -E 's/.*"milliseconds":([0-9.]+).*/\1/' "$place/run/records.jsonl" | awk '{ print $1 / 1000 }')
        echo "$kind, dtta: $draws draws: $seconds s, peak $(awk '{ printf "%.1f", $1 / 1048576 }' "$place/peak") GiB"
        echo "$kind, diffusers: $("$python" "$script" step "$place" "$kind" "$draws" 1 2 2>"$place/errors")"
    done
done
