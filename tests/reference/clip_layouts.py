"""Writes the fixtures that hold CLIP in OpenCLIP's own layout to OpenCLIP: run by hand, results are committed.

    python tests/reference/clip_layouts.py [core/models/tests/fixtures/open_clip]

Needs torch, torchvision, timm, open_clip_torch, ftfy, safetensors. Each folder has open_clip_config.json, weights with random values, the
tokenizer of the fixtures in `text`, and expected.safetensors:

- quick/: `quick_gelu`, as OpenAI's weights; open_clip_pytorch_model.bin as `torch.save` writes it;
- gelu/: other widths of layers, and images that are squashed; open_clip_model.safetensors.
"""

import json
import pathlib
import shutil
import sys

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/open_clip")
TEXT = OUT.parent / "text"
WORDS = len(json.loads((TEXT / "clip_gelu/vocab.json").read_text()))


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if p.dim() == 0:
            p.data = torch.tensor(2.3)
        elif "embedding" in name and p.dim() == 2:
            p.data = 0.6 * draw
        elif p.dim() > 1:
            p.data = draw * 1.2 * p[0].numel() ** -0.5
        else:
            norm = ".ln_" in name or name.startswith("ln_")
            p.data = draw * 0.3 + (1.0 if norm and name.endswith("weight") else 0.0)
    return model.eval()


def write(name, seed, pickled, preprocess, **config):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = randomise(CLIP(**config), seed)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2) + "\n")
    weights = {n: p.contiguous() for n, p in model.state_dict().items()}
    if pickled:
        torch.save(weights, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(weights, folder / "open_clip_model.safetensors")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(TEXT / "clip_gelu" / file, folder / file)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 3, 24, 24, generator=generator).requires_grad_()
    # Zeros behind the end, as OpenCLIP's tokenizer fills texts up.
    texts = torch.randint(1, WORDS - 2, (3, 77), generator=generator)
    for row, end in enumerate((5, 20, 76)):
        texts[row, 0], texts[row, end], texts[row, end + 1 :] = WORDS - 2, WORDS - 1, 0
    features = model.encode_image(images)
    cotangent = torch.randn(features.shape, generator=generator)
    (gradient,) = torch.autograd.grad((features * cotangent).sum(), images)
    tensors = {"input.images": images, "input.texts": texts.float(), "input.cotangent": cotangent, "output.features": features,
               "output.text_features": model.encode_text(texts), "output.logit_scale": model.logit_scale.exp().reshape(1),
               "gradient.images": gradient}
    for n, value in tensors.items():
        print(f"{name}: {n} {list(value.shape)} max {value.abs().max():.3g}")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


openai = dict(mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711], interpolation="bicubic", resize_mode="shortest")
write("quick", 1, True, openai, embed_dim=8, quick_gelu=True,
      vision_cfg=dict(image_size=24, layers=2, width=24, head_width=8, patch_size=8),
      text_cfg=dict(context_length=77, vocab_size=WORDS, width=16, heads=2, layers=2))
write("gelu", 2, False, dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash", size=[24, 24], mode="RGB", fill_color=0),
      embed_dim=6, vision_cfg=dict(image_size=24, layers=1, width=16, head_width=4, patch_size=6, mlp_ratio=1.5),
      text_cfg=dict(context_length=77, vocab_size=WORDS, width=12, heads=3, layers=2, mlp_ratio=2.5))
