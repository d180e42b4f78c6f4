"""Writes the fixture that holds core/engine's optimizers to PyTorch: run by hand, the result is committed.

    python tests/reference/optimizers.py [core/learn/tests/fixtures/optimizers.json]

Needs torch. Each case is an optimizer as an experiment writes it, a parameter, a gradient for each of six steps, and the
parameter after each step.
"""

import json
import pathlib
import sys

import torch

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/learn/tests/fixtures/optimizers.json")
STEPS, ELEMENTS = 6, 37

CASES = [
    {"kind": "sgd", "learning_rate": 0.1},
    {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    {"kind": "adam", "learning_rate": 0.01},
    {"kind": "adam", "learning_rate": 0.003, "betas": [0.8, 0.95], "epsilon": 1e-6, "weight_decay": 0.1},
    {"kind": "adamw", "learning_rate": 0.01},
    {"kind": "adamw", "learning_rate": 0.02, "betas": [0.9, 0.99], "weight_decay": 0.05},
]


def optimizer(case: dict, parameter: torch.Tensor) -> torch.optim.Optimizer:
    case = dict(case)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[case.pop("kind")]
    names = {"learning_rate": "lr", "epsilon": "eps"}
    # dtta's default weight decay is 0 for all three.
    settings = {"weight_decay": 0.0} | {names.get(name, name): value for name, value in case.items()}
    return make([parameter], **settings)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for case in CASES:
        start = torch.randn(ELEMENTS, generator=generator)
        gradients = torch.randn(STEPS, ELEMENTS, generator=generator)
        parameter = start.clone().requires_grad_(True)
        steps = optimizer(case, parameter)
        after = []
        for gradient in gradients:
            parameter.grad = gradient.clone()
            steps.step()
            after.append(parameter.detach().tolist())
        cases.append({"optimizer": case, "parameter": start.tolist(), "gradients": gradients.tolist(), "after": after})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
