import json
import os
import signal

import pytest
from conftest import ROOT, needs, resident, told

needs("torch", "torchvision", "diffusers", "timm", "numpy")

import timm
import torch
import torchvision
from diffusers import DDPMScheduler, DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import save_file
from torch import nn

import dtta
from dtta.torch import _schedule

FIXTURES = ROOT / "core/models/tests/fixtures/diffusers"
NETWORKS = {
    "ddpm": (UNet2DModel, "unet", ["class-embedding"]),
    "dit_two": (DiTTransformer2DModel, "transformer", ["class-embedding"]),
    "mixed": (UNet2DConditionModel, "unet", ["class-embedding", "tokens"]),
}


def network(name):
    """A network of diffusers with dtta's own of the same file, and its schedule."""
    kind, part, slots = NETWORKS[name]
    model = kind.from_pretrained(FIXTURES / name / part).eval()
    scheduler = DDPMScheduler.from_pretrained(FIXTURES / name / "scheduler")
    return model, scheduler, dtta.Denoiser(FIXTURES / name / part), slots


def problem(denoiser, count=3):
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(count, *denoiser.image_shape, generator=generator) * 2 - 1
    condition = {slot: torch.randn(count, *shape, generator=generator) for slot, shape in denoiser.slots.items()}
    return images, condition, [f"image-{n}" for n in range(count)]


class Makers(nn.Module):
    """What makes conditions of a few numbers, so that a gradient beyond the condition is there to compare."""

    def __init__(self, slots):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, torch.Size(shape).numel())) for shape in slots.values())
        self.slots = slots

    def forward(self, x):
        made = [layer(x).reshape(len(x), *shape) for layer, shape in zip(self.layers, self.slots.values())]
        return dict(zip(self.slots, made))


def whole_graph(model, scheduler, feedback_of, images, condition, ids, draws):
    """The same draws through PyTorch's own graph: noisy images and times as dtta asks a network for them, and the noise from the schedule."""
    asked = []

    def record(noisy, times, given):
        asked.append((noisy.clone(), times.clone()))
        return torch.zeros_like(noisy) + 0 * sum(value.sum() for value in given.values())

    spy = dtta.TorchDenoiser(record, scheduler, image=list(images.shape[1:]), slots={slot: value.shape[1:] for slot, value in condition.items()})
    feedback_of(spy)(images, {slot: value.detach() for slot, value in condition.items()}, ids)
    noisy = torch.cat([noisy for noisy, _ in asked])
    times = torch.cat([times for _, times in asked])
    rows = torch.arange(len(ids)).repeat_interleave(draws)
    alpha = scheduler.alphas_cumprod.double()[times].reshape(-1, 1, 1, 1)
    x0 = images[rows].double()
    noise = ((noisy.double() - alpha.sqrt() * x0) / (1 - alpha).sqrt()).float()
    with_rows = {slot: value[rows] for slot, value in condition.items()}
    answer = as_diffusers_is_called(model, noisy, times, with_rows)
    per_draw = (answer - noise).square().mean(dim=(1, 2, 3))
    return per_draw.reshape(len(ids), draws).mean(dim=1)


def as_diffusers_is_called(model, noisy, times, condition):
    """By the network's own graph, with its table of classes taken out."""
    embedded = condition.get("class-embedding")
    if isinstance(model, DiTTransformer2DModel):
        holders, name = [block.norm1.emb for block in model.transformer_blocks], "class_embedder"
    else:
        holders, name = [model], "class_embedding"
    tables = [getattr(holder, name) for holder in holders]
    for holder in holders:
        setattr(holder, name, nn.Identity())
    try:
        if isinstance(model, UNet2DConditionModel):
            answer = model(noisy, times, condition["tokens"], class_labels=embedded).sample
        else:
            answer = model(noisy, times, class_labels=embedded).sample
    finally:
        for holder, table in zip(holders, tables):
            setattr(holder, name, table)
    return answer[:, : noisy.shape[1]]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_the_whole_graph(name):
    model, scheduler, denoiser, slots = network(name)
    assert sorted(denoiser.slots) == sorted(slots)
    makers = Makers(denoiser.slots)
    images, _, ids = problem(denoiser)
    x = torch.randn(len(ids), 5, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, -2.0, 0.5])

    def feedback_of(denoiser):
        # One call after the other, in order, so that what is asked can be written down.
        return dtta.Feedback(denoiser, draws=4, seed=5, micro_batch=12)

    losses = whole_graph(model, scheduler, feedback_of, images, makers(x), ids, 4)
    (losses * weights).sum().backward()
    expected = [parameter.grad.clone() for parameter in makers.parameters()]
    makers.zero_grad()
    found = dtta.torch.feedback(feedback_of(denoiser), images, makers(x), ids)
    (found * weights).sum().backward()
    assert relative(found, losses) <= 1e-5
    for parameter, gradient in zip(makers.parameters(), expected):
        assert relative(parameter.grad, gradient) <= 1e-4


def test_feedback_can_be_differentiated_once():
    _, _, denoiser, _ = network("ddpm")
    images, condition, ids = problem(denoiser)
    condition = condition["class-embedding"].requires_grad_()
    losses = dtta.torch.feedback(dtta.Feedback(denoiser, draws=2), images, condition, ids)
    (gradient,) = torch.autograd.grad(losses.sum(), condition, create_graph=True)
    assert gradient.shape == condition.shape
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_pytorch_gives_the_feedback_of_the_same_in_rust(name):
    model, scheduler, denoiser, _ = network(name)
    images, condition, ids = problem(denoiser)
    same = dtta.TorchDenoiser.diffusers(model, scheduler)
    assert same._specification()["image"] == list(denoiser.image_shape)
    assert same.schedule["kind"] == denoiser.schedule["kind"]
    for slot, table in denoiser.constants().items():
        ours = torch.from_dlpack(table)
        torch.testing.assert_close(same.class_embeddings[: len(ours)], ours, msg=slot)
    # Micro-batches that cut an image's draws, and several at once.
    asked = [dtta.Feedback(one, draws=5, seed=2, micro_batch=4)(images, condition, ids) for one in (denoiser, same)]
    (ours, our_gradients), (theirs, their_gradients) = asked
    assert relative(torch.from_dlpack(theirs), torch.from_dlpack(ours)) <= 1e-5
    for slot, gradient in our_gradients.items():
        assert relative(torch.from_dlpack(their_gradients[slot]), torch.from_dlpack(gradient)) <= 1e-4


def test_the_users_module_stays_as_it_is():
    model, scheduler, _, _ = network("ddpm")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    denoiser = dtta.TorchDenoiser.diffusers(model, scheduler)
    images, condition, ids = problem(network("ddpm")[2])
    dtta.Feedback(denoiser, draws=2)(images, condition, ids)
    assert model.training and isinstance(model.class_embedding, nn.Embedding)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_network_raises_comes_back_as_it_was():
    def broken(noisy, times, condition):
        raise LookupError("no such layer")

    _, _, denoiser, _ = network("ddpm")
    images, condition, ids = problem(denoiser)
    mine = dtta.TorchDenoiser(broken, DDPMScheduler(), image=denoiser.image_shape, slots=denoiser.slots)
    with pytest.raises(LookupError, match="no such layer"):
        dtta.Feedback(mine, draws=1)(images, condition, ids)

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise LookupError("no way back")

    def half(noisy, times, given):
        return noisy * Backward.apply(given["class-embedding"]).mean()

    mine = dtta.TorchDenoiser(half, DDPMScheduler(), image=denoiser.image_shape, slots=denoiser.slots)
    with pytest.raises(LookupError, match="no way back"):
        dtta.Feedback(mine, draws=1)(images, condition, ids)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_ten_thousand_calls_of_a_network_leave_no_memory_behind():
    def scaled(noisy, times, given):
        return noisy * given["scale"]

    mine = dtta.TorchDenoiser(scaled, DDPMScheduler(), image=(1, 32, 32), slots={"scale": (1, 32, 32)})
    feedback = dtta.Feedback(mine, draws=1)
    images, condition = torch.randn(1, 1, 32, 32), torch.ones(1, 1, 32, 32, requires_grad=True)

    def calls(count):
        for _ in range(count):
            condition.grad = None
            dtta.torch.feedback(feedback, images, {"scale": condition}, ["a"]).sum().backward()

    calls(1000)
    before = resident()
    calls(10_000)
    # One of the images of 4 KiB that is left each time would come to 40 MB.
    assert resident() - before < 8 << 20


def test_answers_that_do_not_fit_are_refused():
    _, _, denoiser, _ = network("ddpm")
    images, condition, ids = problem(denoiser)
    for network_of, message in [
        (lambda noisy, times, given: noisy[:, :, :-1] * given["class-embedding"].mean(), "denoiser's answer"),
        (lambda noisy, times, given: "nothing", "no attribute|tensor"),
    ]:
        mine = dtta.TorchDenoiser(network_of, DDPMScheduler(), image=denoiser.image_shape, slots=denoiser.slots)
        with pytest.raises(Exception, match=message):
            dtta.Feedback(mine, draws=1)(images, condition, ids)


def test_schedules_of_diffusers_are_understood_or_refused():
    said = _schedule(DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", num_train_timesteps=500))
    assert (said["betas"], said["prediction"], said["timesteps"]) == ("cosine", "v", 500)
    said = _schedule(FlowMatchEulerDiscreteScheduler())
    assert said == {"kind": "flow", "noise_at": "end", "prediction": "velocity", "time_scale": 1000.0}
    with pytest.raises(TypeError, match="no schedule"):
        _schedule(5)
    with pytest.raises(ValueError, match="takes no condition"):
        dtta.TorchDenoiser.diffusers(UNet2DModel(sample_size=8, block_out_channels=(32, 32, 32, 32)), DDPMScheduler())
    with pytest.raises(TypeError, match="none of"):
        dtta.TorchDenoiser.diffusers(nn.Linear(1, 1), DDPMScheduler())


# --- Backbones and runs ---------------------------------------------------------------------------------------------------------------


def resnet(folder):
    """A ResNet-18 of torchvision for grey images with statistics of its own, and its file for dtta."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    tensors = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    save_file(tensors, folder / "resnet.safetensors")
    config = {"kind": "resnet", "image": [1, 64, 64], "classes": 10, "norm": {"kind": "batch"}}
    (folder / "resnet.json").write_text(json.dumps(config))
    return model, {"models.backbone.config": str(folder / "resnet.json")}


FEW = {"data.stream.samples": 4, "method.steps": 2, "method.draws": 2}


PREPROCESS = [{"kind": "resize", "height": 64, "width": 64}, {"kind": "normalise", "mean": [0.5], "std": [0.5]}]


@pytest.mark.parametrize("parameters", ["all", "normalization"])
def test_a_backbone_of_pytorch_adapts_as_the_same_in_rust(parameters, examples, tmp_path):
    model, of_file = resnet(tmp_path)
    changes = {
        **FEW,
        "models.backbone.preprocess": PREPROCESS,
        "method.parameters": {"group": parameters},
        "method.optimizer": {"kind": "sgd", "learning_rate": 0.05},
    }
    path = examples / "fashion/single-sample.json"
    ours = dtta.run(path, {**changes, **of_file}, out=tmp_path / "a", progress=False)
    backbone = dtta.TorchBackbone(model, image=(1, 64, 64))
    theirs = dtta.run(path, changes, out=tmp_path / "b", backbone=backbone, progress=False)
    assert ours.records["id"] == theirs.records["id"]
    # The losses of the second step are of the weights that the first one moved.
    for a, b in zip(ours.records["loss"], theirs.records["loss"]):
        assert b == pytest.approx(a, rel=1e-4)
    assert any(a[0] != a[1] for a in ours.records["loss"])
    for name in ("source.confidence", "adapted.confidence"):
        assert theirs.records[name] == pytest.approx(ours.records[name], rel=1e-3)
    assert ours.records["source.confidence"] != ours.records["adapted.confidence"]
    # The module itself has not learned.
    assert backbone._values()[0].equal(dtta.TorchBackbone(model, image=(1, 64, 64))._values()[0])


def test_a_run_with_a_denoiser_of_pytorch_has_the_losses_of_the_same_in_rust(examples, tmp_path):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    unet = UNet2DModel(sample_size=28, in_channels=1, out_channels=1, num_class_embeds=10, block_out_channels=[16, 32], norm_num_groups=8, layers_per_block=1, **blocks)
    scheduler = DDPMScheduler()
    unet.save_pretrained(tmp_path / "unet")
    scheduler.save_pretrained(tmp_path / "scheduler")
    path = examples / "fashion/single-sample.json"
    ours = dtta.run(path, {**FEW, "models.denoiser.config": str(tmp_path / "unet")}, out=tmp_path / "a", progress=False)
    theirs = dtta.run(path, FEW, out=tmp_path / "b", denoiser=dtta.TorchDenoiser.diffusers(unet, scheduler), progress=False)
    assert theirs.records["id"] == ours.records["id"]
    for a, b in zip(ours.records["loss"], theirs.records["loss"]):
        assert b == pytest.approx(a, rel=1e-5)
    assert any(a[0] != a[1] for a in ours.records["loss"])
    assert theirs.description["experiment"]["models"]["denoiser"]["config"].startswith("python:diffusers.")


def test_batch_statistics_are_those_of_the_same_in_rust(examples, tmp_path):
    model, of_file = resnet(tmp_path)
    changes = {
        "data.stream.samples": 4,
        "method": {"kind": "entropy", "optimizer": {"kind": "sgd", "learning_rate": 0.01}, "parameters": {"group": "normalization"}},
        "adaptation": {"mode": {"kind": "online"}, "batch": 4, "batch_norm": "batch"},
        "models.backbone.preprocess": PREPROCESS,
    }
    path = examples / "fashion/single-sample.json"
    ours = dtta.run(path, {**changes, **of_file}, out=tmp_path / "a", progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    theirs = dtta.run(path, changes, out=tmp_path / "b", backbone=dtta.TorchBackbone(model, image=(1, 64, 64)), progress=False)
    for a, b in zip(ours.records["loss"], theirs.records["loss"]):
        assert b == pytest.approx(a, rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mixed = {**changes, "adaptation": {**changes["adaptation"], "batch_norm": {"mixed": 0.5}}}
    with pytest.raises(NotImplementedError, match="batch_norm"):
        dtta.run(path, mixed, out=tmp_path / "c", backbone=dtta.TorchBackbone(model, image=(1, 64, 64)), progress=False)


def test_groups_are_those_by_which_experiments_select():
    backbone = dtta.TorchBackbone(torchvision.models.resnet18(num_classes=10), image=(3, 32, 32))
    groups = {name: group for name, _, group in backbone._specification()["parameters"]}
    assert groups["conv1.weight"] == "weight" and groups["bn1.weight"] == groups["bn1.bias"] == "norm"
    assert groups["bn1.running_mean"] == "buffer" and groups["fc.weight"] == groups["fc.bias"] == "head"
    vit = dtta.TorchBackbone.timm(timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7))
    groups = {name: group for name, _, group in vit._specification()["parameters"]}
    assert vit.image == [3, 32, 32] and vit.head == "head" and vit._classes == 7
    assert groups["pos_embed"] == groups["cls_token"] == "embedding"
    assert groups["blocks.0.norm1.weight"] == "norm" and groups["blocks.0.attn.qkv.bias"] == "bias"


def test_a_run_says_what_it_ran_with_and_continues_with_nothing_else(examples, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, in_chans=1)
    path, changes = examples / "fashion/single-sample.json", {**FEW, "method.steps": 1}
    run = dtta.run(path, changes, out=tmp_path / "run", backbone=dtta.TorchBackbone(model, image=(1, 28, 28)), progress=False)
    assert run.description["experiment"]["models"]["backbone"]["config"] == "python:timm.models.resnet.ResNet"
    assert run.summary.protocol["digests"]["backbone/program"] == dtta.TorchBackbone(model, image=(1, 28, 28))._specification()["digest"]
    again = dtta.run(path, changes, out=tmp_path / "run", resume=True, backbone=dtta.TorchBackbone(model, image=(1, 28, 28)), progress=False)
    assert again.records == run.records
    with torch.no_grad():
        model.fc.bias += 1
    with pytest.raises(dtta.ExperimentError, match="backbone/program"):
        dtta.run(path, changes, out=tmp_path / "run", resume=True, backbone=dtta.TorchBackbone(model, image=(1, 28, 28)), progress=False)
    with pytest.raises(dtta.ExperimentError, match="backbone"):
        dtta.run(path, changes, out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize("part", ["backbone", "denoiser"])
def test_ctrl_c_in_a_network_waits_for_the_end_of_the_batch(part, examples, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, in_chans=1)
    slots = {"class-embedding": [8]}
    calls = []

    class Network(nn.Module):
        """Where it is asked for the fourth time, someone presses Ctrl-C."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *inputs):
            calls.append(inputs)
            if len(calls) == 4:
                signal.raise_signal(signal.SIGINT)
            return self.inner(*inputs) if self.inner else inputs[0] * inputs[2]["class-embedding"].mean()

    path, changes = examples / "fashion/single-sample.json", {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2, "adaptation.batch": 2}

    def networks():
        calls.clear()
        denoiser = Network(None) if part == "denoiser" else lambda noisy, times, given: noisy * given["class-embedding"].mean()
        backbone = Network(model) if part == "backbone" else model
        module = denoiser if part == "denoiser" else nn.Identity()
        table = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
        return {
            "backbone": dtta.TorchBackbone(backbone, image=(1, 28, 28)),
            "denoiser": dtta.TorchDenoiser(denoiser, DDPMScheduler(), image=(1, 28, 28), slots=slots, class_embeddings=table, module=module),
        }

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dtta.run(path, changes, out=tmp_path / "run", progress=False, **networks())
    finally:
        signal.signal(signal.SIGINT, before)
    run = dtta.load(tmp_path / "run")
    assert run.status == "interrupted" and run.records.rows % 2 == 0 and 2 <= run.records.rows < 30
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        resumed = dtta.run(path, changes, out=tmp_path / "run", resume=True, progress=False, **networks())
        whole = dtta.run(path, changes, out=tmp_path / "whole", progress=False, **networks())
    finally:
        signal.signal(signal.SIGINT, before)
    assert told(tmp_path / "run") == told(tmp_path / "whole")
    assert resumed.summary.adapted == whole.summary.adapted


def test_the_readmes_ten_lines_adapt_and_print_gains(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## From Python") :]
    code = section[section.index("```python\n") + len("```python\n") :]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(dtta, "run", lambda *given, run=dtta.run, **named: run(*given, **{**named, "out": tmp_path / "run"}))
    exec(compile(code[: code.index("```")], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "gaussian_noise" in printed and "accuracy" in printed
    assert len(told(tmp_path / "run")) == 15 * 2
    assert os.path.exists(tmp_path / "run/summary.json")
