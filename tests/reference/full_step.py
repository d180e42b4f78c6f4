"""DiT-XL/2-256, AutoencoderKL and ConvNeXt-L at full size with random weights: what an experiment needs, and the same step in PyTorch.

    python tests/reference/full_step.py make FOLDER             # weights (3.9 GB), one image, FOLDER/experiment.json
    python tests/reference/full_step.py step FOLDER [DRAWS] [MICRO BATCH] [THREADS] [adapt]

`tests/full_step.sh` calls both. `step` prints the seconds of one step and of its parts: the classifier's pass, the draws, the way back to the
classifier and the update. `adapt` adapts the denoiser, too. Attention is PyTorch's fused one (timm's `Attention`).
"""

import json
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from models import XL, DiT
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import convnext_large

EXAMPLES = Path(__file__).parents[2].resolve() / "examples"
IMAGENET = EXAMPLES / "imagenet/models"


def vae() -> AutoencoderKL:
    return AutoencoderKL.from_config(json.loads((IMAGENET / "sd-vae-ft-mse.json").read_text()))


def make(folder: Path) -> None:
    torch.manual_seed(0)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), (64, 64), mode="bilinear")[0]
    image = Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())
    for label in range(1000):
        place = folder / f"images/{label:03}"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / "0.png")
    save_file(DiT(XL).state_dict(), folder / "dit.safetensors")
    save_file(convnext_large(weights=None).state_dict(), folder / "convnext.safetensors")
    vae().save_pretrained(folder / "vae")
    experiment = json.loads((EXAMPLES / "imagenet/table-2-convnext-l.json").read_text())
    del experiment["$schema"], experiment["models"]["label_space"]
    [clean] = json.loads((EXAMPLES / "imagenet/table-1-in.json").read_text())["data"]["stream"]["domains"]
    clean["dataset"]["path"] = "images"
    experiment["data"] = {"stream": {"samples": 1, "domains": [clean]}}
    files = {
        "backbone": ("convnext_large.json", "convnext.safetensors"),
        "denoiser": ("dit-xl-2-256.json", "dit.safetensors"),
        "encoder": ("sd-vae-ft-mse.json", "vae/diffusion_pytorch_model.safetensors"),
    }
    for role, (config, weights) in files.items():
        model = experiment["models"][role]
        del model["origin"]
        model |= {"config": str(IMAGENET / config), "weights": weights}
    for role, plugin in experiment["plugins"].items():
        plugin["use"] = str(EXAMPLES.parent / "plugins/classification")
    experiment["method"]["steps"] = 1
    experiment["adaptation"]["mode"] = {"kind": "single_sample"}
    (folder / "experiment.json").write_text(json.dumps(experiment, indent=2) + "\n")


def step(folder: Path, draws: int, micro_batch: int, adapt: bool) -> dict:
    classifier = convnext_large(weights=None).eval()
    classifier.load_state_dict(load_file(folder / "convnext.safetensors"))
    dit = DiT(XL).eval().requires_grad_(adapt)
    dit.load_state_dict(load_file(folder / "dit.safetensors"))
    dit.pos_embed.requires_grad_(False)
    encoder = AutoencoderKL.from_pretrained(folder / "vae").eval()
    parameters = list(classifier.parameters()) + [p for p in dit.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-5)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    image, table = torch.randn(1, 3, 256, 256), dit.y_embedder.embedding_table.weight[:1000].detach()

    seconds, clock = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = now - clock, now

    with torch.no_grad():
        latents = encoder.encode(image).latent_dist.mean * encoder.config.scaling_factor
    lap("encode")
    condition = classifier(image[:, :, 16:240, 16:240]).softmax(-1) @ table
    leaf = condition.detach().requires_grad_(True)
    lap("classify")
    times = torch.randint(0, 1000, (draws,))
    for t in times.split(micro_batch):
        a, noise = alphas[t].view(-1, 1, 1, 1), torch.randn(len(t), *latents.shape[1:])
        predicted = dit(a.sqrt() * latents + (1 - a).sqrt() * noise, t, leaf.expand(len(t), -1))
        ((predicted - noise) ** 2).mean((1, 2, 3)).sum().div(draws).backward()
    lap("draws")
    condition.backward(leaf.grad)
    lap("back")
    optimizer.step()
    lap("update")
    return seconds


def main() -> None:
    what, folder, *rest = sys.argv[1:]
    if what == "make":
        return make(Path(folder))
    adapt = "adapt" in rest
    draws, micro_batch, threads = (int(n) for n in [n for n in rest if n != "adapt"] + ["4", "1", "2"][len(rest) - adapt :])
    torch.set_num_threads(threads)
    seconds = step(Path(folder), draws, micro_batch, adapt)
    print(json.dumps({
        "torch": torch.__version__, "threads": threads, "draws": draws, "micro_batch": micro_batch, "adapt": adapt,
        "seconds_per_draw": seconds["draws"] / draws, "seconds": sum(seconds.values()), "parts": seconds,
    }))


if __name__ == "__main__":
    main()
