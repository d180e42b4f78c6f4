"""Writes the fixtures that hold tokenizers, text encoders, CLIP and Stable Diffusion's pipelines to transformers and diffusers: run by hand,
results are committed.

    python tests/reference/text.py BPE_SIMPLE_VOCAB [core/models/tests/fixtures/text]

Needs torch, transformers 5, diffusers, safetensors, Pillow. BPE_SIMPLE_VOCAB is OpenAI CLIP's `bpe_simple_vocab_16e6.txt.gz` (MIT), which the
package `open_clip_torch` has. It writes

- merges.txt.gz: the merges of CLIP's tokenizer, from which its vocabulary follows;
- strings.json.gz: 1,000 strings in many scripts, and the tokens that `CLIPTokenizer` makes of them;
- clip/, clip_gelu/: a `CLIPModel`'s folder with tokenizer and image processor, random values; expected.safetensors;
- text_gelu/, text_projected/: `CLIPTextModel` and `CLIPTextModelWithProjection` by themselves;
- sd_epsilon/, sd_v/: pipelines of Stable Diffusion as they are published, with two prompts' embeddings, the network's answer to a mixture of
  them and its gradients;
- fields.json: the fields of the classes with their defaults.
"""

import gzip
import json
import pathlib
import random
import shutil
import sys

import numpy
import torch
from clip_vocabulary import tokenizer_files
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

OUT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "core/models/tests/fixtures/text")
OUT.mkdir(parents=True, exist_ok=True)

# --- Tokenizer ------------------------------------------------------------------------------------------------------------------------

ALL_MERGES = gzip.open(sys.argv[1]).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]


SENTENCES = """
a photo of a cat|A photo of many Granny Smiths, isn't it?|They'll say we've won; I'd say they're late!|itap of my golden retriever.
Der schnelle braune Fuchs springt über den faulen Hund|Straße, Größe, Äpfel und Öl|Příliš žluťoučký kůň úpěl ďábelské ódy
Zażółć gęślą jaźń|Pchnąć w tę łódź jeża lub ośm skrzyń fig|Voilà: l'œuvre d'où naît la façade|¿Dónde está el niño? ¡Allí!
İstanbul'da ılık bir akşam|Iñtërnâtiônàlizætiøn|Árvíztűrő tükörfúrógép|Ξεσκεπάζω την ψυχοφθόρα βδελυγμία|Ὀδυσσεύς ἦλθεν
Съешь же ещё этих мягких французских булок|Жебракують філософи при ґанку церкви|Ђачки џак и љубав|ბაყაყი წყალში ყიყინებს
Հայերեն այբուբեն|نص حكيم له سر قاطع وذو شأن عظيم|بِسْمِ ٱللَّهِ|فارسی شیرین است و نیم‌فاصله دارد|אָלֶף־בֵּית עִבְרִית|שלום עולם
यह एक बिल्ली की तस्वीर है|আমার সোনার বাংলা|தமிழ் மொழி அழகு|తెలుగు లిపి|ಕನ್ನಡ ನುಡಿ|മലയാളം|ਪੰਜਾਬੀ|ગુજરાતી|සිංහල|ไทยแลนด์แดนยิ้ม|ລາວ|မြန်မာ|ខ្មែរ
一只猫的照片|天地玄黃，宇宙洪荒。|いろはにほへと ちりぬるを|カタカナ・ﾊﾝｶｸ|東京タワーの写真|다람쥐 헌 쳇바퀴에 타고파|한글|བོད་ཡིག|ᠮᠣᠩᠭᠣᠯ|አማርኛ ፊደል|ᏣᎳᎩ
ⅧⅨ ½ ² ³ ①②③|x² + y² = z²|0.5 1,000 100% #7|１２３ ٣٤٥ ४५६|🙂 👩‍👩‍👧‍👦 🇪🇺 ❤️ 🏳️‍🌈|e\u0301 é A\u030a Å ﬁ ﬂ|\u1e9b\u0323|tab\tand\nnewline\r\nend
no\u00a0break\u2003em\u3000ideographic\u200bzero|\ufeffbom|soft\u00adhyphen|<|startoftext|> <|endoftext|>|<|ENDOFTEXT|>x|''s 's't 're've'm'll'd|’s “quoted” …
_underscore_ __init__ a-b a/b a\\b a@b.c|C++ & C# != D♯|!!! ??? ... ,,, ;;|(((nested))) [list] {dict}|$5 €6 £7 ¥8 ₹9|😀😃😄😁|\u0000null|𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒎𝒂𝒕𝒉|𓀀𓀁 𒀀
""".strip("\n").replace("<|startoftext|>", "\u0001").replace("<|endoftext|>", "\u0002").replace("<|ENDOFTEXT|>", "\u0003")
SENTENCES = SENTENCES.replace("\n", "|").split("|")


def strings(count):
    """Sentences as they are, in other cases, and words of several in another order with signs between them."""
    rng = random.Random(20)
    marks = {"\u0001": "<|startoftext|>", "\u0002": "<|endoftext|>", "\u0003": "<|ENDOFTEXT|>"}
    plain = ["".join(marks.get(c, c) for c in s) for s in SENTENCES]
    found = ["", " ", "\n", *plain, *(s.upper() for s in plain), *(s.title() for s in plain)]
    words = [w for s in plain for w in s.split(" ") if w]
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x5D0, 0x700), (0x900, 0xE00), (0xE00, 0x1100), (0x1E00, 0x2000),
              (0x2000, 0x2400), (0x2500, 0x2800), (0x3040, 0x3100), (0x4E00, 0x9FA0), (0xAC00, 0xD7A4), (0x1F300, 0x1F650)]
    while len(found) < count:
        if rng.random() < 0.6:
            some = rng.sample(words, rng.randint(1, 9))
            found.append("".join(w + rng.choice([" ", " ", "  ", ", ", ".", "-", "'s ", "\t", " \u2003", "!", ""]) for w in some))
        else:
            low, high = rng.choice(blocks)
            found.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 24))))
    return found[:count]


def write_tokens():
    folder = OUT / "whole"
    tokenizer_files(folder, ALL_MERGES)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    every = strings(1000)
    ids = [tokenizer(s).input_ids for s in every]
    cut = [tokenizer(s, padding="max_length", max_length=20, truncation=True).input_ids for s in every[:200]]
    shutil.rmtree(folder)
    text = json.dumps({"strings": every, "ids": ids, "filled_to_20": cut}, ensure_ascii=True).encode()
    gzip.GzipFile(OUT / "strings.json.gz", "wb", 9, mtime=0).write(text)
    gzip.GzipFile(OUT / "merges.txt.gz", "wb", 9, mtime=0).write(("\n".join(ALL_MERGES) + "\n").encode())
    print("strings:", len(every), "tokens:", sum(map(len, ids)), "longest:", max(map(len, ids)))


# --- Models ---------------------------------------------------------------------------------------------------------------------------

FEW = ALL_MERGES[:180]
WORDS = 512 + len(FEW) + 2
PROMPTS = ["a photo of a cat.", "a photo of a very long-haired dog!", "été à Łódź 42"]


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
            norm = "norm" in name or "layrnorm" in name
            p.data = draw * 0.3 + (1.0 if norm and name.endswith("weight") else 0.0)
    return model.eval()


def save(name, tensors):
    for n, value in tensors.items():
        if not n.startswith("input."):
            print(f"{name}: {n} {list(value.shape)} max {value.abs().max():.3g}")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, OUT / name / "expected.safetensors")
    for path in (OUT / name).rglob("*.safetensors"):
        path.chmod(0o644)


def text_config(act, eos, depth=2, width=16, projection=8):
    return CLIPTextConfig(vocab_size=WORDS, hidden_size=width, intermediate_size=24, projection_dim=projection, num_hidden_layers=depth,
                          num_attention_heads=2, hidden_act=act, bos_token_id=WORDS - 2, eos_token_id=eos, pad_token_id=WORDS - 1)


def whole_clip(name, seed, act, eos):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    vision = CLIPVisionConfig(hidden_size=24, intermediate_size=32, projection_dim=8, num_hidden_layers=2, num_attention_heads=3,
                              image_size=24, patch_size=8, hidden_act=act)
    config = CLIPConfig(text_config=text_config(act, eos).to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    model = randomise(CLIPModel(config), seed)
    model.save_pretrained(folder)
    processor = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}}
    CLIPImageProcessor(**processor).save_pretrained(folder)
    tokenizer_files(folder, FEW)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    if act == "quick_gelu":  # As newer versions save it; the other folder has the two older files.
        tokenizer.save_pretrained(folder)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    generator = torch.Generator().manual_seed(seed)
    picture = numpy.asarray(torch.randint(0, 256, (10, 13, 3), generator=generator), dtype=numpy.uint8)
    picture = Image.fromarray(picture).resize((52, 40), Image.BICUBIC)
    seen = CLIPImageProcessorPil(**processor)(picture, return_tensors="pt").pixel_values
    pixels = torch.cat([seen, torch.randn(2, 3, 24, 24, generator=generator)]).requires_grad_()
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    answer = model(pixel_values=pixels, **tokens)
    features = model.get_image_features(pixels).pooler_output
    cotangent = torch.randn(answer.logits_per_image.shape, generator=generator)
    query = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    wanted = {"images": pixels, query: model.get_parameter(query),
              "vision_model.embeddings.class_embedding": model.vision_model.embeddings.class_embedding}
    gradients = torch.autograd.grad((answer.logits_per_image * cotangent).sum(), list(wanted.values()))
    save(name, {
        "input.picture": torch.tensor(numpy.asarray(picture)).permute(2, 0, 1) / 255,
        "input.images": pixels, "input.cotangent": cotangent, "output.seen": seen, "output.features": features,
        "output.text_features": model.get_text_features(**tokens).pooler_output, "output.text_normal": answer.text_embeds,
        "output.logits": answer.logits_per_image, "output.logit_scale": model.logit_scale.exp().reshape(1),
    } | {f"gradient.{n}": g for n, g in zip(wanted, gradients)})


def text_alone(name, seed, cls, act, eos, depth):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = randomise(cls(text_config(act, eos, depth)), seed)
    model.save_pretrained(folder)
    tokenizer_files(folder, FEW)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    answer = model(ids)
    pooled = answer.text_embeds if cls is CLIPTextModelWithProjection else answer.pooler_output
    save(name, {"input.ids": ids.float(), "output.tokens": answer.last_hidden_state, "output.pooled": pooled})


def pipeline(name, seed, scheduler, act, old_names, **unet):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    text = randomise(CLIPTextModel(text_config(act, 2)), seed)
    text.save_pretrained(folder / "text_encoder")
    if old_names:  # As Stable Diffusion's own files have them.
        tensors = {f"text_model.{n}": p.contiguous() for n, p in text.state_dict().items()}
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(tensors, folder / "text_encoder/model.safetensors")
    tokenizer_files(folder / "tokenizer", FEW)
    special = lambda s: {"content": s, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}  # noqa: E731
    tokens = {"bos_token": special("<|startoftext|>"), "eos_token": special("<|endoftext|>"), "unk_token": special("<|endoftext|>"),
              "pad_token": "<|endoftext|>" if old_names else "!"}
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps(tokens))
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({
        "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, **unet)
    randomise(model, seed + 1).save_pretrained(folder / "unet")
    vae = AutoencoderKL(block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
                        norm_num_groups=4, latent_channels=4, sample_size=8)
    randomise(vae, seed + 2).save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        embeddings = text(ids).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    logits = torch.randn(2, len(PROMPTS), generator=generator).requires_grad_()
    mixture = torch.einsum("bk,kld->bld", logits.softmax(-1), embeddings)
    times, noise = torch.tensor([37, 642]), torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, times)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, times) if velocity else noise
    answer = model(noisy, times, mixture).sample
    loss = torch.nn.functional.mse_loss(answer, target)
    of_mixture, of_logits = torch.autograd.grad(loss, [mixture, logits])
    save(name, {
        "input.ids": ids.float(), "input.images": images, "input.logits": logits, "input.times": times.float(), "input.noise": noise,
        "output.embeddings": embeddings, "output.latents": latents, "output.mixture": mixture, "output.noisy": noisy,
        "output.target": target.clone(), "output.answer": answer, "output.loss": loss.reshape(1),
        "gradient.mixture": of_mixture, "gradient.logits": of_logits,
    })


def fields():
    table = {"text": CLIPTextConfig().to_dict(), "vision": CLIPVisionConfig().to_dict(), "processor": CLIPImageProcessor().to_dict()}
    for one in table.values():
        for name in ("transformers_version", "_name_or_path", "model_type", "image_processor_type"):
            one.pop(name, None)
    (OUT / "fields.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


write_tokens()
whole_clip("clip", 1, "quick_gelu", 2)
whole_clip("clip_gelu", 2, "gelu", WORDS - 1)
text_alone("text_gelu", 3, CLIPTextModel, "gelu", 2, 3)
text_alone("text_projected", 4, CLIPTextModelWithProjection, "quick_gelu", WORDS - 1, 1)
base = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
pndm = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1)
pipeline("sd_epsilon", 5, pndm, "quick_gelu", True, attention_head_dim=2)
pipeline("sd_v", 8, DDIMScheduler(prediction_type="v_prediction", **base), "gelu", False, attention_head_dim=[2, 4], use_linear_projection=True)
fields()
