"""Feedback inside PyTorch's graph, and networks of PyTorch in dtta's loop."""

import copy
import ctypes
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional, Protocol, Union, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.dlpack import from_dlpack

__all__ = ["TorchBackbone", "TorchDenoiser", "feedback"]

Shape = Sequence[int]
Condition = Union[Tensor, Mapping[str, Tensor]]
Network = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]
"""Of noisy images `[B, C, H, W]`, the times that the network knows `[B]` and a condition for each slot `[B, …]`, what it predicts."""

CLASS_EMBEDDING = "class-embedding"
"""The slot that takes a row of a table of classes, or a mixture of them."""
TOKENS = "tokens"
"""The slot that takes the tokens of a text."""
SPATIAL = "spatial"
"""The slot that takes an image."""


# --- Feedback in the graph ------------------------------------------------------------------------------------------------------------


class Asked(Protocol):
    """What answers as `dtta.Feedback` does: losses, and the gradient of their sum for each slot."""

    def __call__(self, images: Any, condition: Any, ids: Sequence[str], step: int = 0) -> tuple[Any, dict[str, Any]]: ...


def feedback(
    feedback: Asked,
    images: Tensor,
    condition: Condition,
    ids: Sequence[str],
    step: int = 0,
) -> Tensor:
    """The diffusion loss of each image under its condition, `[B]`, through which `backward` reaches whatever made the condition.

    `images` are as the denoiser sees them, `[B, C, H, W]`; `condition` is a tensor for each slot, `[B, …]`, or one for the only slot. `ids`
    and `step` key the draws. Images get no gradient. It can be differentiated once. `feedback` is a `dtta.Feedback`, or whatever is called as
    one, such as what asks workers for parts of it.
    """
    slots = dict(condition) if isinstance(condition, Mapping) else {"": condition}
    apply = cast(Callable[..., Tensor], _Feedback.apply)
    return apply(feedback, images, tuple(slots), list(ids), step, *slots.values())


class _Feedback(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        feedback: Asked,
        images: Tensor,
        names: tuple[str, ...],
        ids: list[str],
        step: int,
        *conditions: Tensor,
    ) -> Tensor:
        given = [_lent(condition) for condition in conditions]
        asked = given[0] if names == ("",) else dict(zip(names, given))
        losses, gradients = feedback(_lent(images), asked, ids, step)
        like = conditions[0]
        kept = gradients.values() if names == ("",) else [gradients[name] for name in names]
        ctx.save_for_backward(*(_taken(gradient).to(like.device) for gradient in kept))
        return _taken(losses).to(like.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        # The gradients of the sum: an image's loss depends on its own row alone.
        rows = [
            gradient.reshape(-1, *[1] * (kept.ndim - 1)) * kept
            for kept in ctx.saved_tensors
        ]
        return (None, None, None, None, None, *rows)


def _lent(tensor: Tensor) -> Tensor:
    """A tensor as dtta reads it."""
    return tensor.detach().to("cpu", torch.float32)


def _taken(tensor: Any) -> Tensor:
    """A tensor of dtta, without a copy."""
    return from_dlpack(tensor)


# --- Networks in the loop -------------------------------------------------------------------------------------------------------------

Answer = tuple[list[Tensor], Optional[Callable[[list[Any]], list[Optional[Tensor]]]]]


def _answer(
    outputs: list[Tensor], inputs: list[Tensor], tracked: list[bool]
) -> Answer:
    """Outputs, and where an input is tracked, the function for the way back."""
    lent = [_lent(output) for output in outputs]
    if not any(tracked):
        return lent, None
    leaves = [tensor for tensor, is_tracked in zip(inputs, tracked) if is_tracked]
    # What does not depend on an input has no gradient to give.
    outputs = [output for output in outputs]
    places = [place for place, output in enumerate(outputs) if output.requires_grad]

    def back(gradients: list[Any]) -> list[Optional[Tensor]]:
        if not places:
            return [None] * len(inputs)
        given = [_taken(gradients[place]).to(outputs[place]) for place in places]
        found = torch.autograd.grad(
            [outputs[place] for place in places], leaves, given, allow_unused=True
        )
        each = iter(found)
        answers = [next(each) if is_tracked else None for is_tracked in tracked]
        return [None if answer is None else _lent(answer) for answer in answers]

    return lent, back


class TorchDenoiser:
    """A denoiser of PyTorch, on its device and in its precision, frozen.

    `network` is called with noisy images, times and conditions, and answers with what `schedule` says that it predicts. `schedule` is one of
    diffusers, or what dtta's model files have under `schedule`.
    """

    schedule: dict[str, Any]

    def __init__(
        self,
        network: Network,
        schedule: Any,
        *,
        image: Shape,
        slots: Mapping[str, Shape],
        class_embeddings: Optional[Tensor] = None,
        null_label: Optional[int] = None,
        unconditional: Optional[Mapping[str, Tensor]] = None,
        module: Optional[nn.Module] = None,
        name: Optional[str] = None,
        device: Union[str, torch.device, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        """`image` is `[C, H, W]`, `slots` the extents of each condition without the batch axis.

        `class_embeddings` is the table of the slot `class-embedding`: a row for each class, and the last one, `null_label`, for none, where the
        network was trained so. `unconditional` is what each slot holds without a condition, `[1, …]`. `module` holds the network's weights, if
        `network` is no module itself: their digest makes a run's identity, and without it no run is continued.
        """
        if module is None and isinstance(network, nn.Module):
            module = network
        first = next(module.parameters(), None) if module is not None else None
        self.network = network
        self.schedule = _schedule(schedule)
        self.image = [int(extent) for extent in image]
        self.slots = {slot: [int(n) for n in shape] for slot, shape in slots.items()}
        self.class_embeddings = None if class_embeddings is None else _lent(class_embeddings)
        self.null_label = null_label
        self.unconditional = unconditional
        self.name = name or _name(network if module is None else module)
        self.device = torch.device(device or (first.device if first is not None else "cpu"))
        self.dtype = dtype or (first.dtype if first is not None else torch.float32)
        self._module = module
        self._said: list[Any] = []
        if not self.slots:
            raise ValueError("the denoiser has no slot, so nothing can be told to it")
        if null_label is not None and class_embeddings is None:
            raise ValueError("`null_label` is a row of `class_embeddings`, which is missing")
        if self.class_embeddings is not None:
            rows, *width = self.class_embeddings.shape
            if width != self.slots.get(CLASS_EMBEDDING):
                raise ValueError(
                    f"`class_embeddings` has rows of {width}, and the slot `{CLASS_EMBEDDING}` is {self.slots.get(CLASS_EMBEDDING)}"
                )
            if null_label not in (None, rows - 1):
                raise ValueError(f"`null_label` is {null_label}, expected the last row, {rows - 1}")

    @classmethod
    def diffusers(
        cls,
        model: nn.Module,
        scheduler: Any,
        *,
        image: Optional[Shape] = None,
        tokens: int = 77,
        prompt: Optional[Tensor] = None,
        controlnet: Optional[nn.Module] = None,
        conditioning_scale: float = 1.0,
        unconditional: Optional[Mapping[str, Tensor]] = None,
    ) -> "TorchDenoiser":
        """A `UNet2DModel` of classes, a `DiTTransformer2DModel`, or a `UNet2DConditionModel` that attends to `tokens` tokens of a text.

        With a `ControlNetModel` beside a `UNet2DConditionModel`, the slot `spatial` is the hint, an image of numbers from 0 to 1, and
        `conditioning_scale` what the ControlNet's answer is multiplied with. `prompt`, `[L, D]`, is the tokens for all images; without, they are
        the slot `tokens`.
        """
        wrap = _DIFFUSERS.get(type(model).__name__)
        if wrap is None:
            known = ", ".join(f"`{name}`" for name in _DIFFUSERS)
            raise TypeError(f"{type(model).__name__} is none of {known}; `TorchDenoiser` takes a function around it")
        config: Any = model.config
        if image is None:
            size = config.sample_size
            if size is None:
                raise ValueError("the model has no `sample_size`; say `image=[C, H, W]`")
            image = [config.in_channels, *(size if isinstance(size, (list, tuple)) else [size, size])]
        own = _copy(model)
        network, slots, table, null_label = wrap(own, tokens)
        module = model
        if controlnet is not None:
            network, hint = _steered(own, model, controlnet, conditioning_scale, image)
            slots = {**slots, SPATIAL: hint}
            module = nn.ModuleList([model, controlnet])
        if prompt is not None:
            network = _prompted(network, slots.pop(TOKENS, None), prompt)
        told = None if prompt is None else prompt.tolist()
        denoiser = cls(
            network,
            scheduler,
            image=image,
            slots=slots,
            class_embeddings=table,
            null_label=null_label,
            unconditional=unconditional,
            module=module,
            name=_name(model),
        )
        denoiser._said = [conditioning_scale, told]
        return denoiser

    def _specification(self) -> dict[str, Any]:
        table, null = self.class_embeddings, self.null_label
        classes = None if table is None else table.shape[0] - (null is not None)
        said = [self.schedule, self.slots, self.image, str(self.dtype), *self._said]
        return {
            "name": f"python:{self.name}",
            "digest": _digest(self._module, said),
            "image": self.image,
            "slots": [[slot, shape] for slot, shape in self.slots.items()],
            "classes": classes,
            "null_label": null,
        }

    def _table(self) -> Optional[Tensor]:
        return self.class_embeddings

    def _unconditional(self) -> Optional[dict[str, Tensor]]:
        if self.unconditional is not None:
            return {slot: _lent(value) for slot, value in self.unconditional.items()}
        if self.null_label is None or self.class_embeddings is None or len(self.slots) > 1:
            return None
        return {CLASS_EMBEDDING: self.class_embeddings[self.null_label :][:1]}

    def _forward(self, lent: list[Any], tracked: list[bool], times: list[float]) -> Answer:
        whole = self.schedule.get("kind") == "discrete"
        at = torch.tensor(times, dtype=torch.int64 if whole else torch.float32, device=self.device)
        inputs = [_taken(tensor).to(self.device, self.dtype) for tensor in lent]
        for tensor, is_tracked in zip(inputs, tracked):
            tensor.requires_grad_(is_tracked)
        with torch.set_grad_enabled(any(tracked)):
            noisy, *conditions = inputs
            rows = [condition.expand(len(noisy), *condition.shape[1:]) for condition in conditions]
            answer = self.network(noisy, at, dict(zip(self.slots, rows)))
        return _answer([answer], inputs, tracked)


Statistics = Union[Literal["running", "batch"], dict[Literal["mixed"], float]]


class TorchBackbone:
    """A task model of PyTorch, on its device. Its parameters are dtta's, which hands them over with every call; the module keeps its own."""

    def __init__(
        self,
        module: nn.Module,
        *,
        image: Shape,
        head: Optional[str] = None,
        name: Optional[str] = None,
        resize: bool = False,
    ) -> None:
        """`image` is `[C, H, W]`. `head` names the last layer, whose input are the features: the last `Linear` if absent.

        The module answers with logits `[B, classes]`, or of each pixel `[B, classes, H, W]`: a tensor, or something with `logits` or `out`.
        `resize` brings those of pixels to the image's extents, bilinearly.
        """
        self.image = [int(extent) for extent in image]
        self.name = name or _name(module)
        self.preprocess: Optional[list[dict[str, Any]]] = None
        self._resize = resize
        self._own = module
        self._module = _copy(module)
        self._lock = threading.Lock()
        linear = [at for at, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        head = head if head is not None else (linear[-1] if linear else None)
        if head is not None and head not in dict(module.named_modules()):
            raise ValueError(f"the module has no layer `{head}`")
        self.head = head
        floats = {name: value for name, value in self._module.named_buffers() if value.is_floating_point()}
        self._others = {name: value for name, value in self._module.named_buffers() if name not in floats}
        self._parameters: dict[str, Tensor] = {**dict(self._module.named_parameters()), **floats}
        self._running = list(floats)
        self._groups = _groups(self._module, head, set(floats))
        self._norms = [layer for layer in self._module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        first = next(iter(self._parameters.values()), None)
        self.device = first.device if first is not None else torch.device("cpu")
        self.dtype = first.dtype if first is not None else torch.float32
        with torch.no_grad():
            blank = torch.zeros([1, *self.image], device=self.device, dtype=self.dtype)
            _, logits = self._outputs(self._parameters, blank)
        if logits.ndim not in (2, 4):
            raise ValueError(f"the module answers with {list(logits.shape)}, expected [B, classes] or [B, classes, H, W]")
        self._per_pixel, self._classes = logits.ndim == 4, int(logits.shape[1])

    @classmethod
    def timm(cls, model: nn.Module) -> "TorchBackbone":
        """A model of timm, with its own size of images and its own head."""
        config: Any = getattr(model, "pretrained_cfg", None)
        if not config:
            raise TypeError(f"{type(model).__name__} has no `pretrained_cfg`, so it is none of timm")
        classifier = config.get("classifier")
        image = list(config["input_size"])
        embed: Any = getattr(model, "patch_embed", None)
        size = getattr(embed, "img_size", None)
        if size is not None:
            image[1:] = list(size)
        channels = getattr(model, "in_chans", None)
        if isinstance(channels, int):
            image[0] = channels
        return cls(model, image=image, head=classifier if isinstance(classifier, str) else None)

    @classmethod
    def transformers(
        cls, model: nn.Module, processor: Any = None, *, image: Optional[Shape] = None
    ) -> "TorchBackbone":
        """A `…ForImageClassification` or a `…ForSemanticSegmentation` of transformers, whose logits are brought to the image's extents.

        `processor`, an image processor of the same model, says the size of images; what else it does to them is `preprocess`, in the terms of
        experiments: `dtta.run(path, {"models.backbone.preprocess": backbone.preprocess}, backbone=backbone)`. Without, `image` is
        `[C, H, W]`, or what the model's configuration says.
        """
        kind = type(model).__name__
        config: Any = getattr(model, "config", None)
        segments = kind.endswith("ForSemanticSegmentation")
        if config is None or not (segments or kind.endswith("ForImageClassification")):
            raise TypeError(f"{kind} is none of transformers' `…ForImageClassification` and `…ForSemanticSegmentation`; `TorchBackbone` takes a module that answers with logits")
        steps = None if processor is None else _preprocess(processor)
        if image is None:
            channels, size = getattr(config, "num_channels", 3), getattr(config, "image_size", None)
            if steps is not None:
                size = [steps[-2]["height"], steps[-2]["width"]]
            if size is None:
                raise ValueError("the model's configuration has no `image_size`; give its image processor, or say `image=[C, H, W]`")
            image = [channels, *(size if isinstance(size, (list, tuple)) else [size, size])]
        layers = [at for at, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        backbone = cls(model, image=image, head=layers[-1] if segments else None, resize=segments)
        backbone.preprocess = steps
        return backbone

    def _specification(self) -> dict[str, Any]:
        return {
            "name": f"python:{self.name}",
            "digest": _digest(self._own, [self.image, self.head, self._resize]),
            "image": self.image,
            "outputs": self._classes,
            "per_pixel": self._per_pixel,
            "batch_statistics": bool(self._norms),
            "parameters": [
                [name, list(value.shape), self._groups[name]]
                for name, value in self._parameters.items()
            ],
        }

    def _values(self) -> list[Tensor]:
        return [_lent(value) for value in self._parameters.values()]

    def _forward(self, lent: list[Any], tracked: list[bool], statistics: Statistics) -> Answer:
        if isinstance(statistics, dict) and self._norms:
            raise NotImplementedError(
                "a `TorchBackbone` normalises with running statistics or those of the batch; `adaptation.batch_norm` asks to mix them"
            )
        inputs = [_taken(tensor).to(self.device, self.dtype) for tensor in lent]
        for tensor, is_tracked in zip(inputs, tracked):
            tensor.requires_grad_(is_tracked)
        images, *values = inputs
        with torch.set_grad_enabled(any(tracked)), self._lock:
            for layer in self._norms:
                layer.training = statistics == "batch"
            given = dict(zip(self._parameters, values))
            if statistics == "batch":
                # They are lent, and the layers would move them in place.
                given.update((name, given[name].clone()) for name in self._running)
            outputs = self._outputs(given, images)
        return _answer(list(outputs), inputs, tracked)

    def _outputs(self, parameters: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits."""
        found: list[Tensor] = []
        handle = None
        if self.head is not None:
            layer = self._module.get_submodule(self.head)
            handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        # Those that count batches are counted up in place.
        others = {name: value.clone() for name, value in self._others.items()}
        try:
            answer = torch.func.functional_call(self._module, {**parameters, **others}, (images,))
        finally:
            if handle is not None:
                handle.remove()
        logits = _logits(answer)
        if self._resize:
            logits = nn.functional.interpolate(logits, size=self.image[1:], mode="bilinear", align_corners=False)
        if len(found) == 1 and found[0].ndim == logits.ndim:
            return found[0], logits
        return logits, logits


def _logits(answer: Any) -> Tensor:
    if isinstance(answer, Tensor):
        return answer
    for name in ("logits", "out"):
        found = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if isinstance(found, Tensor):
            return found
    raise TypeError(f"the module answers with {type(answer).__name__}, expected a tensor, or something with `logits` or `out`")


def _groups(module: nn.Module, head: Optional[str], buffers: set[str]) -> dict[str, str]:
    """What each parameter is for, by which adaptation selects."""
    groups = dict.fromkeys(buffers, "buffer")
    for path, layer in module.named_modules():
        in_head = head is not None and (path == head or path.startswith(f"{head}."))
        for name, value in layer.named_parameters(path, recurse=False):
            if in_head:
                group = "head"
            elif "norm" in type(layer).__name__.lower():
                group = "norm"
            elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
                group = "embedding"
            elif name.rpartition(".")[2].endswith("bias"):
                group = "bias"
            elif name.rpartition(".")[2].endswith(("embed", "embedding", "token", "embeddings")):
                group = "embedding"
            else:
                group = "weight"
            groups.setdefault(name, group)
    return groups


_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def _preprocess(processor: Any) -> list[dict[str, Any]]:
    """What an image processor of transformers does to an image in [0, 1], in the terms of experiments; the extents are last but one."""

    def of(name: str, default: Any = None) -> Any:
        return getattr(processor, name, default)

    if of("do_pad"):
        raise ValueError("the processor pads images (`do_pad`), which is not known here; say the experiment's `preprocess`, and `image`")
    size, crop = dict(of("size") or {}), dict(of("crop_size") or {}) if of("do_center_crop") else {}
    size = {name: extent for name, extent in size.items() if extent is not None}
    crop = {name: extent for name, extent in crop.items() if extent is not None}
    if not of("do_resize", True) or of("crop_pct") is not None:
        raise ValueError("the processor does not resize images to a size of its own; say the experiment's `preprocess`, and `image`")
    filter = _FILTERS.get(int(of("resample", 2)))
    if filter is None:
        raise ValueError(f"the processor resizes by Pillow's filter {of('resample')}, expected {sorted(_FILTERS)}")
    if set(size) == {"shortest_edge"}:
        if not crop:
            raise ValueError("the processor's images have extents of their own (`shortest_edge` without a crop); say the experiment's `preprocess`, and `image`")
        resized = {"kind": "resize_short", "side": size["shortest_edge"], "filter": filter, "as_bytes": True}
    elif set(size) == {"height", "width"}:
        resized = {"kind": "resize", **size, "filter": filter, "as_bytes": True}
        crop = crop or size
    else:
        raise ValueError(f"the processor's `size` is {size}, expected `height` and `width`, or `shortest_edge`")
    mean, deviation = [0.0], [1.0]
    if of("do_normalize", True):
        mean, deviation = list(of("image_mean")), list(of("image_std"))
    if not of("do_rescale", True):
        raise ValueError("the processor leaves pixels from 0 to 255 (`do_rescale`); dtta's go from 0 to 1")
    scale = float(of("rescale_factor", 1 / 255)) * 255
    # A pixel p in [0, 1] becomes (p · scale - mean) / deviation.
    normalised = {"kind": "normalise", "mean": [m / scale for m in mean], "std": [d / scale for d in deviation]}
    cropped = {"kind": "centre_crop", "height": crop["height"], "width": crop["width"]}
    return [{"kind": "rgb"}, resized, cropped, normalised]


def _name(network: Any) -> str:
    kind = network if hasattr(network, "__qualname__") else type(network)
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(module: Optional[nn.Module], said: Any) -> str:
    """What makes two runs of a network one: its structure as PyTorch prints it, its weights, and what was said of it."""
    if module is None:
        # Nobody knows what it computes; it is taken for no other, not even for itself.
        return hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    digest = hashlib.sha256(f"{module}\n{json.dumps(said)}".encode())
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        # As PyTorch without NumPy can.
        digest.update((ctypes.c_char * raw.numel()).from_address(raw.data_ptr()) if raw.numel() else b"")
    return digest.hexdigest()


def _copy(module: nn.Module) -> nn.Module:
    """The same module with the same tensors, to evaluate, whose layers can be changed without anyone noticing."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(module, memo).eval()


# --- diffusers ------------------------------------------------------------------------------------------------------------------------

_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
_DISCRETE = ("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep")


def _schedule(schedule: Any) -> dict[str, Any]:
    """What dtta's model files say of a schedule, for one of diffusers."""
    if isinstance(schedule, Mapping):
        return {"kind": "discrete", **schedule}
    name, config = type(schedule).__name__.removesuffix("Scheduler"), getattr(schedule, "config", None)
    if config is None:
        raise TypeError(f"{type(schedule).__name__} is no schedule; expected a dict, or a scheduler of diffusers")
    if name == "FlowMatchEulerDiscrete":
        scale = float(config.num_train_timesteps)
        return {"kind": "flow", "noise_at": "end", "prediction": "velocity", "time_scale": scale}
    if name not in _DISCRETE:
        raise TypeError(f"{name}Scheduler is not known here; say its schedule as a dict")
    trained = getattr(config, "trained_betas", None)
    found: dict[str, Any] = {
        "kind": "discrete",
        "timesteps": config.num_train_timesteps,
        "zero_terminal_snr": bool(getattr(config, "rescale_betas_zero_snr", False)),
        "prediction": _known(_PREDICTIONS, "prediction_type", config.prediction_type),
    }
    if trained is not None:
        return {**found, "trained_betas": [float(beta) for beta in trained]}
    betas = _known(_BETAS, "beta_schedule", config.beta_schedule)
    return {**found, "betas": betas, "beta_start": config.beta_start, "beta_end": config.beta_end}


def _known(table: Mapping[str, str], field: str, value: str) -> str:
    if value not in table:
        raise ValueError(f"the scheduler's `{field}` is `{value}`, expected one of {', '.join(table)}")
    return table[value]


class _Given(nn.Module):
    """In the place of a table of classes: its rows are given already."""

    def forward(self, rows: Tensor, *_: Any) -> Tensor:
        return rows


Wrapped = tuple[Network, dict[str, list[int]], Optional[Tensor], Optional[int]]


def _classes(unet: Any) -> tuple[dict[str, list[int]], Optional[Tensor]]:
    """The slot of a U-Net's classes, whose table is taken out, and the table."""
    embedding = unet.class_embedding
    if embedding is None:
        return {}, None
    if isinstance(embedding, nn.Embedding):
        unet.class_embedding = _Given()
        return {CLASS_EMBEDDING: [embedding.embedding_dim]}, embedding.weight
    if isinstance(embedding, nn.Identity):
        return {CLASS_EMBEDDING: [unet.time_embedding.linear_2.out_features]}, None
    kind = f"`class_embed_type={unet.config.class_embed_type!r}`"
    raise ValueError(f"{type(unet).__name__} with {kind} has no embedding that a condition could take the place of; wrap it by a function")


def _unet(unet: Any, _: int) -> Wrapped:
    slots, table = _classes(unet)
    if not slots:
        raise ValueError("the UNet2DModel takes no condition; it does with `num_class_embeds`, or `class_embed_type='identity'`")

    def network(noisy: Tensor, times: Tensor, condition: dict[str, Tensor]) -> Tensor:
        answer = unet(noisy, times, class_labels=condition[CLASS_EMBEDDING], return_dict=False)[0]
        return cast(Tensor, answer)

    return network, slots, table, None


def _dit(dit: Any, _: int) -> Wrapped:
    tables = [block.norm1.emb.class_embedder for block in dit.transformer_blocks]
    table: Tensor = tables[0].embedding_table.weight
    if not all(torch.equal(other.embedding_table.weight, table) for other in tables):
        raise ValueError("the blocks of the DiTTransformer2DModel have different tables of classes, so that no one vector tells them a class")
    has_null = table.shape[0] > dit.config.num_embeds_ada_norm
    for block in dit.transformer_blocks:
        block.norm1.emb.class_embedder = _Given()
    channels = dit.config.in_channels

    def network(noisy: Tensor, times: Tensor, condition: dict[str, Tensor]) -> Tensor:
        answer = dit(noisy, timestep=times, class_labels=condition[CLASS_EMBEDDING], return_dict=False)[0]
        # The other half are variances.
        return cast(Tensor, answer[:, :channels])

    return network, {CLASS_EMBEDDING: [table.shape[1]]}, table, table.shape[0] - 1 if has_null else None


def _unet_condition(unet: Any, tokens: int) -> Wrapped:
    width = unet.config.cross_attention_dim
    if not isinstance(width, int):
        raise ValueError("the UNet2DConditionModel has a `cross_attention_dim` for each level; wrap it by a function")
    if unet.config.addition_embed_type is not None or unet.config.encoder_hid_dim_type is not None:
        raise ValueError("the UNet2DConditionModel takes more than tokens (`addition_embed_type`, `encoder_hid_dim_type`); wrap it by a function")
    slots, table = _classes(unet)
    slots[TOKENS] = [tokens, width]

    def network(noisy: Tensor, times: Tensor, condition: dict[str, Tensor]) -> Tensor:
        classes, texts = condition.get(CLASS_EMBEDDING), condition[TOKENS]
        answer = unet(noisy, times, texts, class_labels=classes, return_dict=False)[0]
        # The other half are variances.
        return cast(Tensor, answer[:, : noisy.shape[1]])

    return network, slots, table, None


def _steered(
    unet: Any, given: nn.Module, controlnet: Any, scale: float, image: Shape
) -> tuple[Network, list[int]]:
    """A U-Net that a ControlNet steers, and the extents of its hint."""
    if type(given).__name__ != "UNet2DConditionModel" or type(controlnet).__name__ != "ControlNetModel":
        kinds = f"{type(controlnet).__name__} beside a {type(given).__name__}"
        raise TypeError(f"a {kinds} is not known here, a ControlNetModel beside a UNet2DConditionModel is; wrap them by a function")
    steers, config = _copy(controlnet), controlnet.config
    if unet.class_embedding is not None or getattr(steers, "class_embedding", None) is not None:
        raise ValueError("a ControlNet beside classes is not known here; wrap it by a function")
    if config.addition_embed_type is not None or config.encoder_hid_dim_type is not None:
        raise ValueError("the ControlNetModel takes more than a hint and tokens (`addition_embed_type`, `encoder_hid_dim_type`); wrap it by a function")
    # Every level of the hint's embedding but the first halves its extents.
    factor = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    hint = [config.conditioning_channels, *(int(extent) * factor for extent in image[1:])]

    def network(noisy: Tensor, times: Tensor, condition: dict[str, Tensor]) -> Tensor:
        texts, shown = condition[TOKENS], condition[SPATIAL]
        down, middle = steers(noisy, times, texts, shown, conditioning_scale=scale, return_dict=False)
        answer = unet(
            noisy,
            times,
            texts,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        # The other half are variances.
        return cast(Tensor, answer[:, : noisy.shape[1]])

    return network, hint


def _prompted(network: Network, expected: Optional[list[int]], prompt: Tensor) -> Network:
    """A network that is told the same tokens of every image."""
    told = prompt.detach().reshape(-1, prompt.shape[-1])
    if expected is None or prompt.ndim not in (2, 3) or prompt.ndim == 3 and len(prompt) != 1 or told.shape[1] != expected[1]:
        width = None if expected is None else expected[1]
        raise ValueError(f"`prompt` is {list(prompt.shape)}, expected [L, {width}]: the tokens of one text, for a UNet2DConditionModel")

    def prompted(noisy: Tensor, times: Tensor, condition: dict[str, Tensor]) -> Tensor:
        tokens = told.to(noisy).expand(len(noisy), *told.shape)
        return network(noisy, times, {**condition, TOKENS: tokens})

    return prompted


_DIFFUSERS: dict[str, Callable[[Any, int], Wrapped]] = {
    "UNet2DModel": _unet,
    "DiTTransformer2DModel": _dit,
    "UNet2DConditionModel": _unet_condition,
}
