"""Algorithm 1 of Diffusion-TTA (Prabhudesai et al. 2023) in plain PyTorch, on the models of the Fashion-MNIST example: accuracy and time.

    dtta corrupt FOLDER IMAGES --severities 5       # FOLDER/CLASS/NAME.png with 0 to 9 for CLASS
    python tests/reference/official_loop.py IMAGES [cpu|cuda] [--draws 180] [--steps 5] [--timesteps 0 1000] [--images 20] [--online]

The official settings are 5 steps of 180 draws, over the whole range of t, with a fresh mean of class embeddings in each step (Appendix A.5).
Each image is adapted to by itself; weights are reset after every image, or with `--online` after every corruption. Adam with the rate of the
example, `learning_rate`; the paper's own, 1e-5, moves these small models by nothing that could be seen. Prints one JSON object.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import numpy
import torch
from models import DiT, TinyResNet
from PIL import Image
from safetensors.torch import load_file

MODELS = Path(__file__).parents[2] / "examples/fashion/models"


def load(kind, name: str) -> torch.nn.Module:
    config = json.loads((MODELS / f"{name}.json").read_text())
    model = kind({"mlp_ratio": 4.0, "class_dropout_prob": 0.0, "learn_sigma": False} | config)
    model.load_state_dict({k: v.float() for k, v in load_file(MODELS / f"{name}.safetensors").items()})
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("device", nargs="?", default="cpu")
    parser.add_argument("--draws", type=int, default=180)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--timesteps", type=int, nargs=2, default=[0, 1000])
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--images", dest="each", type=int, default=20, help="of each corruption")
    parser.add_argument("--online", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    denoiser = load(DiT, "denoiser").to(device).eval().requires_grad_(False)
    source = load(TinyResNet, "classifier").to(device).eval()
    embeddings = denoiser.y_embedder.embedding_table.weight[:10]
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)

    def fresh() -> tuple:
        model = copy.deepcopy(source)
        return model, torch.optim.Adam(model.parameters(), lr=options.learning_rate, eps=5e-5)

    def adapt(model, optimizer, image) -> None:
        for _ in range(options.steps):
            condition = model(image)[1].softmax(1) @ embeddings
            t = torch.randint(*options.timesteps, (options.draws,), device=device)
            noise = torch.randn(options.draws, *image.shape[1:], device=device)
            a = alphas[t].view(-1, 1, 1, 1)
            answer = denoiser(a.sqrt() * image + (1 - a).sqrt() * noise, t, condition.expand(options.draws, -1))
            loss = torch.nn.functional.mse_loss(answer, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    corruptions, seconds, count = {}, 0.0, 0
    for folder in sorted(path for path in options.images.iterdir() if path.is_dir()):
        files = sorted(folder.glob("5/*/*.png"))
        files = files[:: max(1, len(files) // options.each)][: options.each]
        model, optimizer = fresh()
        before = after = 0
        for path in files:
            label = int(path.parent.name)
            pixels = torch.tensor(numpy.array(Image.open(path).convert("L")), dtype=torch.float32, device=device)
            image = (pixels / 127.5 - 1)[None, None]
            if not options.online:
                model, optimizer = fresh()
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            adapt(model, optimizer, image)
            with torch.no_grad():
                after += int(model(image)[1].argmax()) == label
            seconds += time.perf_counter() - start
            count += 1
            with torch.no_grad():
                before += int(source(image)[1].argmax()) == label
        corruptions[folder.name] = {"source": before / len(files), "adapted": after / len(files)}
    mean = {side: sum(c[side] for c in corruptions.values()) / len(corruptions) for side in ("source", "adapted")}
    print(json.dumps({
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads", "torch": torch.__version__,
        "steps": options.steps, "draws": options.draws, "timesteps": options.timesteps, "online": options.online, "images": count,
        "seconds_per_image": round(seconds / count, 4), **mean, "corruptions": corruptions,
    }))


if __name__ == "__main__":
    main()
