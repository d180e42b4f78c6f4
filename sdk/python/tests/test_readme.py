"""The blocks of Python in this package's README, run as they stand. What they leave open (models, images, a network to download from) is filled in
here, and nothing is stored beside the test's own folder."""

import re

import pytest
from conftest import ROOT, needed, needs, told

import dtta

numpy = pytest.importorskip("numpy")

README = (ROOT / "sdk/python/README.md").read_text(encoding="utf-8")


def blocks(heading):
    """The blocks of Python below a heading, up to the next one."""
    (section,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found


def run_block(code, names):
    exec(compile(code, "sdk/python/README.md", "exec"), names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch, examples):
    """A working folder with the examples in it, in which runs are short."""
    (tmp_path / "examples").symlink_to(examples)
    monkeypatch.chdir(tmp_path)

    def short(experiment, overrides=None, *, run=dtta.run, **options):
        few = {"data.stream.samples": 2, "method.draws": 2}
        return run(experiment, {**few, **(overrides or {})}, **options)

    monkeypatch.setattr(dtta, "run", short)
    return tmp_path


def test_every_block_is_run():
    headings = re.findall(r"^##+ (.*)\n", README, re.MULTILINE)
    with_blocks = [heading for heading in headings if re.search(rf"^##+ {re.escape(heading)}\n(?:(?!^##).*\n)*?```python", README, re.MULTILINE)]
    # The last one is run by test_functions.py.
    assert with_blocks == ["Experiments", "On a cluster", "The gradient of the diffusion loss", "Draws over workers", "Networks of PyTorch in the loop", "Functions in the place of plugins"]


def test_experiments(here, capsys):
    needed("pandas")
    (code,) = blocks("Experiments")
    names = run_block(code, {})
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "gaussian_noise" in printed
    assert len(names["frame"]) == len(told(here / "runs/mine")) == 30


def test_on_a_cluster(here, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    (code,) = blocks("On a cluster")
    (here / "runs/part-1").mkdir(parents=True)
    (here / "runs/part-1/mine.txt").touch()
    with pytest.raises(SystemExit) as ended:
        run_block(code, {"dtta": dtta, "networks": {}})
    # The folder is of something else, which is not tried again.
    assert ended.value.code == 2
    (here / "runs/part-1/mine.txt").unlink()
    run_block(code, {"dtta": dtta, "networks": {"device": "cpu"}})
    assert (here / "runs/part-1/unit.json").exists()


def problem(denoiser):
    images = numpy.random.default_rng(0).uniform(-1, 1, (2, *denoiser.image_shape)).astype("float32")
    condition = numpy.from_dlpack(denoiser.constants()["class-embeddings"])[:2].copy()
    return {"images": images, "condition": condition, "ids": ["a", "b"], "step": 3}


def test_the_gradient_and_draws_over_workers(here, examples):
    denoiser = dtta.Denoiser(examples / "fashion/models/denoiser.json")
    names = run_block(blocks("The gradient of the diffusion loss")[0], {"dtta": dtta, **problem(denoiser)})
    assert names["losses"].shape == (2,) and names["gradients"]["class-embedding"].shape == names["condition"].shape
    (code,) = blocks("Draws over workers")
    names = run_block(code, names)
    assert len(names["parts"]) == 3
    whole, _ = names["feedback"](*(names[name] for name in ("images", "condition", "ids", "step")))
    assert numpy.from_dlpack(names["losses"]) == pytest.approx(numpy.from_dlpack(whole), rel=1e-5)


def test_the_gradient_in_the_graph_of_pytorch(here, examples):
    torch = needed("torch")
    denoiser = dtta.Denoiser(examples / "fashion/models/denoiser.json")
    first, second = blocks("The gradient of the diffusion loss")
    names = run_block(first, {"dtta": dtta, **problem(denoiser)})
    torch.manual_seed(0)
    embeddings = torch.from_dlpack(denoiser.constants()["class-embeddings"]).clone()
    model = torch.nn.Linear(5, 10)
    names.update(images=torch.from_numpy(names["images"]), my_model=model, x=torch.randn(2, 5), class_embeddings=embeddings)
    run_block(second, names)
    assert model.weight.grad.norm() > 0


def test_networks_of_pytorch(here, monkeypatch):
    needs("torch", "torchvision", "timm", "diffusers", "transformers")
    import diffusers
    import timm
    import torch
    import torchvision
    import transformers

    torch.manual_seed(0)
    fixtures = ROOT / "core/models/tests/fixtures/diffusers"
    unet = {"sample_size": 8, "down_block_types": ["CrossAttnDownBlock2D"], "block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 4}
    vit = transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTForImageClassification(vit).save_pretrained(here / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(here / "vit")
    control = diffusers.ControlNetModel(conditioning_embedding_out_channels=(8, 16), **{name: value for name, value in unet.items() if name != "sample_size"})
    control.save_pretrained(here / "control")
    names = {
        "dtta": dtta,
        "timm": timm,
        "torchvision": torchvision,
        "AutoImageProcessor": transformers.AutoImageProcessor,
        "ViTForImageClassification": transformers.ViTForImageClassification,
        "ControlNetModel": diffusers.ControlNetModel,
        "DiTTransformer2DModel": diffusers.DiTTransformer2DModel,
        "DDPMScheduler": diffusers.DDPMScheduler,
        "scheduler": diffusers.DDPMScheduler(),
        "network": lambda noisy, times, condition: noisy,
        "module": torch.nn.Linear(1, 1),
        "table": torch.zeros(10, 1152),
        "unet": diffusers.UNet2DConditionModel(up_block_types=["CrossAttnUpBlock2D"], **unet),
        "tokens_of_the_empty_text": torch.zeros(5, 16),
    }
    asked = []
    monkeypatch.setattr(dtta, "run", lambda *given, **named: asked.append((given, named)))
    first, second = blocks("Networks of PyTorch in the loop")
    # Nothing is downloaded.
    offline = first.replace("pretrained=True", "pretrained=False").replace('weights="DEFAULT"', "weights=None")
    assert offline.count("False") == offline.count("None") == 1
    run_block(offline, {**names, "path": fixtures / "dit_two/transformer"})
    paths = iter([here / "vit", here / "vit", here / "control"])
    pieces = re.split(r"\bpath\b", second)
    assert len(pieces) == 4
    filled = pieces[0] + "".join(repr(str(next(paths))) + piece for piece in pieces[1:])
    run_block(filled, names)
    for given, named in asked:
        assert given[0] == "experiment.json"
        assert isinstance(named["backbone"], dtta.TorchBackbone) and isinstance(named["denoiser"], dtta.TorchDenoiser)
    kinds = [step["kind"] for step in asked[1][0][1]["models.backbone.preprocess"]]
    assert "resize" in kinds and "normalise" in kinds, kinds
