from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, final

from typing_extensions import CapsuleType

__all__ = [
    "Denoiser",
    "Feedback",
    "Part",
    "Tensor",
    "__version__",
    "arrow_stream",
    "command",
    "run",
    "sum_parts",
    "validate",
]

__version__: str

@final
class Tensor:
    """A tensor of 32-bit floats that dtta computed: `torch.from_dlpack` and `numpy.from_dlpack` take it without a copy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, outermost first."""

    def tolist(self) -> list[Any]:
        """The numbers as nested lists."""

    def __len__(self) -> int: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: Any | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType: ...

@final
class Denoiser:
    """A denoiser from its configuration (one of dtta's, or a folder of diffusers) with its weights."""

    def __new__(cls, path: str | PathLike[str], *, weights: str | PathLike[str] | None = None) -> Denoiser: ...
    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what it denoises."""

    @property
    def slots(self) -> dict[str, tuple[int, ...]]:
        """What it is conditioned on: the extents of each slot, without the batch axis."""

    @property
    def schedule(self) -> dict[str, Any]:
        """The schedule it was trained with, as model files have it."""

    def constants(self) -> dict[str, Tensor]:
        """Tensors that it has for mappers, such as `class-embeddings`."""

    def predict(self, noisy: Any, times: Sequence[float], condition: Any) -> Tensor:
        """What it answers to noisy images `[B, C, H, W]` at one time of its schedule for each, under a condition."""

@final
class Feedback:
    """Draws of timestep and noise through a denoiser. They are a function of seed, id and step."""

    def __new__(
        cls,
        denoiser: Any,
        *,
        draws: int = 8,
        timesteps: Mapping[str, Any] | None = None,
        seed: int = 0,
        micro_batch: int = 32,
        loss: Literal["mse", "l1"] | None = None,
        noise: Literal["fresh", "step", "sample"] | None = None,
    ) -> Feedback: ...
    def __call__(
        self, images: Any, condition: Any, ids: Sequence[str], step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each image `[B]`, averaged over draws and elements, and the gradient of their sum with respect to each slot."""

    def split(self, workers: int) -> list[range]:
        """The draws of each image for so many workers, as ranges that `part` takes: as equal as they can be, and fewer where there are fewer
        micro-batches."""

    def part(self, images: Any, condition: Any, ids: Sequence[str], step: int = 0, *, draws: range) -> Part:
        """What some of the draws of each image come to: a range with the step 1 that begins and ends at multiples of `micro_batch`, or at the
        end. `sum_parts` makes of parts with all draws what a call answers with."""

@final
class Part:
    """Losses and gradients of some of the draws, to be sent to where they are summed: it can be pickled."""

    @staticmethod
    def from_bytes(bytes: bytes) -> Part:
        """From what `to_bytes` answered."""

    def to_bytes(self) -> bytes:
        """It as bytes: a line of JSON, and 32-bit floats."""

    @property
    def draws(self) -> range:
        """The draws of each image that it has."""

    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...

def sum_parts(parts: Sequence[Part]) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses and gradients of parts that have all draws, in any order: to the bit the same however the draws were split."""

def arrow_stream(columns: dict[str, list[Any]]) -> CapsuleType:
    """A capsule with a stream of one batch: columns by name, each a list with as many values."""

def command(arguments: Sequence[str]) -> int:
    """Runs the command with these arguments, the first of which is its name, and answers its exit code."""

def validate(experiment: Any, overrides: Sequence[str]) -> None:
    """Holds an experiment to its schema and to itself, with every fault at once; nothing is loaded."""

def run(
    experiment: Any,
    overrides: Sequence[str],
    *,
    out: str | None,
    existing: Literal["keep", "resume", "replace"],
    shard: str | None,
    checkpoint_every: float,
    device: str,
    denoiser_device: str | None,
    backbone: Any | None,
    denoiser: Any | None,
    mapper: Any | None,
    metric: Any | None,
    progress: Callable[[int, int, str], None] | None,
    stopping: Callable[[], bool],
) -> tuple[PathLike[str], str]:
    """Runs an experiment into a folder; answers the folder, and its summary as JSON."""
