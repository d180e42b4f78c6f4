"""Writes plugins/segmentation/tests/fixtures/miou.json: mean intersection over union by torchmetrics.

    python tests/reference/segmentation.py       # from the repository root; needs torch, torchmetrics

Two images of labels, with each class ignored in turn, and none. Class 4 occurs nowhere; class 3 in predictions alone.
"""

import json
from pathlib import Path

import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

OUTPUT = Path(__file__).parents[2] / "plugins/segmentation/tests/fixtures/miou.json"
CLASSES = 5


def main():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 6), generator=generator)
    wrong = torch.rand(target.shape, generator=generator) < 0.4
    predicted = torch.where(wrong, torch.randint(0, 4, target.shape, generator=generator), target)
    scores = {}
    for ignored in (-1, *range(CLASSES)):
        score = multiclass_jaccard_index(predicted, target, CLASSES, average="macro", ignore_index=None if ignored < 0 else ignored)
        scores[str(ignored)] = round(score.item(), 6)
    document = {"classes": CLASSES, "shape": list(target.shape), "predicted": predicted.flatten().tolist(),
                "target": target.flatten().tolist(), "miou_by_ignore_index": scores}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
