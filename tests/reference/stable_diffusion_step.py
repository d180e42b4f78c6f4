"""Stable Diffusion at full size with random weights: what an experiment needs, and the same step in diffusers.

    python tests/reference/stable_diffusion_step.py make FOLDER text|controlnet     # f16 weights (2.9 or 2.8 GB), images, FOLDER/experiment.json
    python tests/reference/stable_diffusion_step.py step FOLDER text|controlnet [DRAWS] [MICRO BATCH] [THREADS]

`text` is CLIP ViT-B/32 with Stable Diffusion 2.1-base (Table 3 of the paper, on ten classes), `controlnet` SegFormer-B0 with Stable Diffusion
1.5 and a ControlNet for masks (Table 4). `tests/stable_diffusion_step.sh` calls both. Everything is computed in f32.
`step` prints the seconds of one step and of its parts, and the peak memory of the process. Needs torch, diffusers, transformers, Pillow.
"""

import gzip
import json
import resource
import sys
import time
from pathlib import Path

import torch
from clip_vocabulary import tokenizer_files
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

ROOT = Path(__file__).parents[2].resolve()
EXAMPLES, MERGES = ROOT / "examples", ROOT / "core/models/tests/fixtures/text/merges.txt.gz"
CLASSES = ["apple", "bear", "chair", "dog", "eagle", "fish", "guitar", "house", "island", "jacket"]
UNET = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNETS = {
    "text": UNET | {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "controlnet": UNET | {"cross_attention_dim": 768, "attention_head_dim": 8},
}
SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "trained_betas": None,
}


def image(size: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), (size, size), mode="bilinear")


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * image(512)[0]).byte().permute(1, 2, 0).numpy()).save(path)


def make(folder: Path, kind: str) -> None:
    torch.manual_seed(0)
    weights = folder / "weights"
    unet = UNet2DConditionModel(**UNETS[kind])
    if kind == "controlnet":
        ControlNetModel.from_unet(unet).half().save_pretrained(weights / "controlnet")
    unet.half().save_pretrained(weights / "unet")
    del unet
    AutoencoderKL.from_config(json.loads((EXAMPLES / "imagenet/models/sd-vae-ft-mse.json").read_text())).half().save_pretrained(weights / "vae")
    (weights / "scheduler").mkdir(exist_ok=True)
    (weights / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    {"text": make_text, "controlnet": make_controlnet}[kind](folder, weights)


def write(folder: Path, experiment: dict) -> None:
    experiment["method"] |= {"steps": 1, "draws": 1, "micro_batch": 1}
    (folder / "experiment.json").write_text(json.dumps(experiment, indent=2) + "\n")


def local(experiment: dict, models: dict) -> dict:
    del experiment["$schema"], experiment["data"]["origin"]
    for role, config in models.items():
        model = experiment["models"][role]
        del model["origin"]
        model["config"] = config
    for role, plugin in experiment["plugins"].items():
        if "use" in plugin:
            plugin["use"] = str((EXAMPLES / "imagenet" / plugin["use"]).resolve())
    return experiment


def make_text(folder: Path, weights: Path) -> None:
    CLIPModel(CLIPConfig()).half().save_pretrained(weights / "clip")
    CLIPImageProcessor().save_pretrained(weights / "clip")
    CLIPTextModel(CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu", projection_dim=512,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )).half().save_pretrained(weights / "text_encoder")
    merges = gzip.open(MERGES, "rt").read().splitlines()
    for place in ["clip", "tokenizer"]:
        (weights / place).mkdir(exist_ok=True)
        tokenizer_files(weights / place, merges)
    for name in CLASSES:
        save_image(folder / "images" / name / "0.png")
    experiment = json.loads((EXAMPLES / "imagenet/table-3-vit-b-32.json").read_text())
    experiment = local(experiment, {"backbone": "weights/clip", "denoiser": "weights/unet", "encoder": "weights/vae"})
    del experiment["models"]["label_space"], experiment["models"]["prompts"]["classes_file"]
    experiment["models"]["prompts"]["classes"] = CLASSES
    stream = experiment["data"]["stream"]
    stream["samples"], stream["stratified"] = 1, False
    stream["domains"][0]["dataset"]["path"] = "images"
    write(folder, experiment)


def make_controlnet(folder: Path, weights: Path) -> None:
    SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)).save_pretrained(weights / "segformer")
    SegformerImageProcessor(do_reduce_labels=True).save_pretrained(weights / "segformer")
    save_file({"prompt": torch.randn(77, 768)}, weights / "prompt.safetensors")
    (folder / "controlnet.json").write_text(json.dumps({
        "kind": "controlnet", "unet": "weights/unet", "controlnet": "weights/controlnet", "prompt": "weights/prompt.safetensors",
    }))
    save_image(folder / "images/0.jpg")
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(torch.randint(0, 151, (512, 512)).byte().numpy()).save(folder / "masks/0.png")
    experiment = json.loads((EXAMPLES / "dense/table-4-segmentation.json").read_text())
    experiment = local(experiment, {"backbone": "weights/segformer", "denoiser": "controlnet.json", "encoder": "weights/vae"})
    dataset = experiment["data"]["dataset"]
    dataset["images"], dataset["targets"]["labels"]["path"] = "images", "masks"
    dataset["classes"] = str(EXAMPLES / "dense/ade20k-classes.json")
    experiment["data"]["stream"] = {"samples": 1, "domains": [{"kind": "clean"}]}
    write(folder, experiment)


class Clock:
    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


def step(folder: Path, kind: str, draws: int, micro_batch: int) -> dict:
    load = {"torch_dtype": torch.float32, "local_files_only": True}
    weights = folder / "weights"
    unet = UNet2DConditionModel.from_pretrained(weights / "unet", **load).eval().requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(weights / "vae", **load).eval().requires_grad_(False)
    picture = image(512)
    if kind == "text":
        model = CLIPModel.from_pretrained(weights / "clip", dtype=torch.float32).eval()
        sentences = [f"a photo of a {name}." for name in CLASSES]
        token = lambda place: CLIPTokenizer(str(weights / place / "vocab.json"), str(weights / place / "merges.txt"))(
            sentences, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            names = torch.nn.functional.normalize(model.get_text_features(token("clip")).pooler_output, dim=-1)
            encoder = CLIPTextModel.from_pretrained(weights / "text_encoder", dtype=torch.float32).eval()
            prompts = encoder(token("tokenizer")).last_hidden_state
            del encoder
        parameters = [p for name, p in model.vision_model.named_parameters() if ".q_proj." in name or ".v_proj." in name]
    else:
        model = SegformerForSemanticSegmentation.from_pretrained(weights / "segformer", dtype=torch.float32).eval()
        control = ControlNetModel.from_pretrained(weights / "controlnet", **load).eval().requires_grad_(False)
        prompt = load_file(weights / "prompt.safetensors")["prompt"][None]
        palette = torch.rand(150, 3)
        parameters = list(model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-5)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)

    clock = Clock()
    with torch.no_grad():
        latents = vae.encode(2 * picture - 1).latent_dist.mean * vae.config.scaling_factor
    clock.lap("encode")
    if kind == "text":
        small = torch.nn.functional.interpolate(picture, (224, 224), mode="bicubic")
        features = torch.nn.functional.normalize(model.get_image_features(small).pooler_output, dim=-1)
        probabilities = (model.logit_scale.exp() * features @ names.T).softmax(-1)
        condition = torch.einsum("bk,kld->bld", probabilities, prompts)
    else:
        logits = torch.nn.functional.interpolate(model(picture).logits, (512, 512), mode="bilinear")
        condition = torch.einsum("bkhw,kc->bchw", logits.softmax(1), palette)
    leaf = condition.detach().requires_grad_(True)
    clock.lap("predict")
    for t in torch.randint(0, 1000, (draws,)).split(micro_batch):
        a, noise = alphas[t].view(-1, 1, 1, 1), torch.randn(len(t), *latents.shape[1:])
        noisy, shown = a.sqrt() * latents + (1 - a).sqrt() * noise, leaf.expand(len(t), *leaf.shape[1:])
        if kind == "text":
            predicted = unet(noisy, t, shown).sample
        else:
            text = prompt.expand(len(t), -1, -1)
            down, mid = control(noisy, t, text, controlnet_cond=shown, return_dict=False)
            predicted = unet(noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        ((predicted - noise) ** 2).mean((1, 2, 3)).sum().div(draws).backward()
        del predicted
    clock.lap("draws")
    condition.backward(leaf.grad)
    clock.lap("back")
    optimizer.step()
    clock.lap("update")
    return clock.seconds


def main() -> None:
    what, folder, kind, *rest = sys.argv[1:]
    if what == "make":
        return make(Path(folder), kind)
    draws, micro_batch, threads = (int(n) for n in rest + ["1", "1", "2"][len(rest) :])
    torch.set_num_threads(threads)
    seconds = step(Path(folder), kind, draws, micro_batch)
    print(json.dumps({
        "torch": torch.__version__, "threads": threads, "draws": draws, "micro_batch": micro_batch,
        "seconds": sum(seconds.values()), "parts": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }))


if __name__ == "__main__":
    main()
