"""Test-time adaptation of vision models with diffusion feedback.

- `run`, `validate` and `load`: experiments, as the command `dtta` runs them, and what they leave behind.
- `Metric` and `Score`: a metric that is a function.
- `Denoiser` and `Feedback`: the diffusion loss of images under a condition, and its gradient; `Part` and `sum_parts`: over workers.
- `dtta.torch`: the same inside PyTorch's graph, and networks of PyTorch in dtta's loop. `TorchDenoiser` and `TorchBackbone` are there as well.
"""

from typing import TYPE_CHECKING, Any

from ._dtta import Denoiser, Feedback, Part, Tensor, __version__, sum_parts
from ._errors import ExperimentError, Interrupted, Issue, LockedError, RunError
from ._functions import Metric, Score
from ._records import Records
from ._run import Domain, Run, Summary, load, run, validate

if TYPE_CHECKING:
    from .torch import TorchBackbone, TorchDenoiser

__all__ = [
    "Denoiser",
    "Domain",
    "ExperimentError",
    "Feedback",
    "Interrupted",
    "Issue",
    "LockedError",
    "Metric",
    "Part",
    "Records",
    "Run",
    "RunError",
    "Score",
    "Summary",
    "Tensor",
    "TorchBackbone",
    "TorchDenoiser",
    "__version__",
    "load",
    "run",
    "sum_parts",
    "validate",
]


def __getattr__(name: str) -> Any:
    # PyTorch is imported by those alone who use it.
    if name in ("TorchBackbone", "TorchDenoiser"):
        from . import torch

        return getattr(torch, name)
    raise AttributeError(f"module 'dtta' has no attribute {name!r}")
