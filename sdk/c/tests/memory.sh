#!/bin/sh
# The example under valgrind: no invalid access, and nothing that is lost. Needs cc and valgrind; takes two minutes.
#
#     cargo build --release --workspace && sdk/c/tests/memory.sh [SAMPLES]
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
built=$root/target/release
cc -std=c11 -g -I "$root/sdk/c/include" "$root/sdk/c/example/adapt.c" "$built/libdtta_c.so" -Wl,-rpath,"$built" -o "$scratch/adapt"
RAYON_NUM_THREADS=2 valgrind --suppressions="$root/sdk/c/tests/memory.supp" --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
    "$scratch/adapt" "$root/examples/fashion/online.json" "$scratch/run" "$root/examples/fashion/models/denoiser.json" \
    data.stream.samples="${1:-1}" 'data.stream.domains=[{"kind": "clean"}]' output.pictures=0
