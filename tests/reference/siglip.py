"""Writes the fixtures that hold SigLIP's tokenizer and both its towers to transformers: run by hand, results are committed.

    python tests/reference/siglip.py [core/models/tests/fixtures/siglip]

Needs torch, transformers 5, tokenizers, sentencepiece, protobuf, safetensors, Pillow. It writes

- model/: a `SiglipModel`'s folder with tokenizer and image processor, random values; expected.safetensors;
- strings.json.gz: the tokens that `SiglipTokenizer` makes of the 1,000 strings of `text.py` with a `spiece.model` of few words, and which of
  them become others by the `tokenizer.json` that says the same. It has the steps that published folders have: lower case, no signs, one space
  between words, the characters of sentencepiece's own table. The differences are of final sigmas and of characters that the table joins;
- fields.json: the fields of the classes with their defaults.
"""

import gzip
import json
import pathlib
import re
import shutil
import string
import sys
import tempfile
import unicodedata

import numpy
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTextConfig, SiglipTokenizer, SiglipVisionConfig
from transformers.convert_slow_tokenizer import import_protobuf
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/siglip")
STRINGS = pathlib.Path(__file__).parents[2] / "core/models/tests/fixtures/text/strings.json.gz"
PROMPTS = ["a photo of a cat.", "A photo of a very long-haired dog!", "été à Łódź 42"]
SPECIAL = ["</s>", "<unk>"]


def sentences(folder):
    """A `spiece.model` of few words. Its table of characters is a part of the one that published models have (nmt_nfkc)."""
    every = json.loads(gzip.open(STRINGS).read())["strings"]
    bare = str.maketrans("", "", string.punctuation)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(re.sub(r"\s+", " ", s.translate(bare).lower()) for s in every if max(map(ord, s), default=0) < 0x530 and "\0" not in s))
    blocks = [(0xA0, 0x250), (0x2000, 0x2100), (0x2460, 0x2474), (0xFB00, 0xFB07), (0xFF01, 0xFF5F)]
    same = {c: unicodedata.normalize("NFKC", chr(c)) for low, high in blocks for c in range(low, high)}
    same |= {c: " " for c in (0x9, 0xA, 0xD, 0x200B, 0x2581)}
    rules = folder / "rules.tsv"
    rules.write_text("".join(f"{c:X}\t{' '.join(f'{ord(x):X}' for x in to)}\n" for c, to in same.items() if to != chr(c)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=600, hard_vocab_limit=False, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, normalization_rule_tsv=str(rules), character_coverage=0.99, minloglevel=2)
    return every, folder / "spiece.model"


def same_by_tokenizers(spiece):
    """What `tokenizer.json` says of a `spiece.model`."""
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(spiece.read_bytes())
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Lowercase(), normalizers.Replace(Regex("[" + re.escape(string.punctuation) + "]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False, special=True) for t in SPECIAL])
    return tokenizer


def write_tokenizer(folder):
    """Writes what published folders have of a tokenizer, and the tokens; gives the one of the library."""
    with tempfile.TemporaryDirectory() as work:
        every, spiece = sentences(pathlib.Path(work))
        slow, fast = SiglipTokenizer(str(spiece)), same_by_tokenizers(spiece)
        ids = [slow(s).input_ids for s in every]
        cut = [slow(s, padding="max_length", max_length=12, truncation=True).input_ids for s in every[:200]]
        others = [n for n, s in enumerate(every) if fast.encode(s).ids != ids[n]]
        padded = slow(PROMPTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt").input_ids
    fast.save(str(folder / "tokenizer.json"), pretty=False)
    special = lambda t: {"content": t, "lstrip": True, "normalized": False, "rstrip": True, "single_word": False}  # noqa: E731
    named = {"eos_token": special("</s>"), "pad_token": special("</s>"), "unk_token": special("<unk>")}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "added_tokens_decoder": {str(n + 1): special(t) | {"special": True} for n, t in enumerate(SPECIAL)}, "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True, "do_lower_case": True, "eos_token": "</s>", "model_input_names": ["input_ids"],
        "model_max_length": 64, "pad_token": "</s>", "processor_class": "SiglipProcessor", "sp_model_kwargs": {},
        "tokenizer_class": "SiglipTokenizer", "unk_token": "<unk>"}))
    text = json.dumps({"ids": ids, "filled_to_12": cut, "others": others}).encode()
    gzip.GzipFile(OUT / "strings.json.gz", "wb", 9, mtime=0).write(text)
    print("strings:", len(every), "tokens:", sum(map(len, ids)), "others:", [every[n] for n in others])
    return padded, fast.get_vocab_size()


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if name in ("logit_scale", "logit_bias"):
            p.data = torch.tensor([2.3 if name == "logit_scale" else -3.1])
        elif "embedding" in name and p.dim() == 2:
            p.data = 0.6 * draw
        elif p.dim() > 1:
            p.data = draw * 1.2 * p[0].numel() ** -0.5
        else:
            norm = "norm" in name and name.endswith("weight")
            p.data = draw * 0.3 + (1.0 if norm else 0.0)
    return model.eval()


def write_model(seed=1):
    folder = OUT / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ids, words = write_tokenizer(folder)
    text = SiglipTextConfig(vocab_size=words, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    vision = SiglipVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, image_size=26, patch_size=8)
    model = randomise(SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())), seed)
    model.save_pretrained(folder)
    size = {"size": {"height": 26, "width": 26}}
    SiglipImageProcessor(**size).save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    picture = numpy.asarray(torch.randint(0, 256, (10, 13, 3), generator=generator), dtype=numpy.uint8)
    picture = Image.fromarray(picture).resize((52, 40), Image.BICUBIC)
    seen = SiglipImageProcessorPil(**size)(picture, return_tensors="pt").pixel_values
    pixels = torch.cat([seen, torch.randn(2, 3, 26, 26, generator=generator)]).requires_grad_()
    answer = model(pixel_values=pixels, input_ids=ids)
    cotangent = torch.randn(answer.logits_per_image.shape, generator=generator)
    named = ["vision_model.encoder.layers.0.self_attn.q_proj.weight", "vision_model.embeddings.position_embedding.weight",
             "vision_model.head.probe", "vision_model.head.attention.in_proj_weight"]
    wanted = {"images": pixels} | {n: model.get_parameter(n) for n in named}
    gradients = torch.autograd.grad((answer.logits_per_image * cotangent).sum(), list(wanted.values()))
    tensors = {
        "input.picture": torch.tensor(numpy.asarray(picture)).permute(2, 0, 1) / 255, "input.images": pixels, "input.ids": ids.float(),
        "input.cotangent": cotangent, "output.seen": seen, "output.features": model.get_image_features(pixels).pooler_output,
        "output.text_tokens": answer.text_model_output.last_hidden_state, "output.text_features": answer.text_model_output.pooler_output,
        "output.logits": answer.logits_per_image, "output.logit_scale": model.logit_scale.exp(), "output.logit_bias": model.logit_bias,
    } | {f"gradient.{n}": g for n, g in zip(wanted, gradients)}
    for n, value in tensors.items():
        if not n.startswith("input."):
            print(f"{n} {list(value.shape)} max {value.abs().max():.3g}")
    save_file({n: v.detach().contiguous() for n, v in tensors.items()}, folder / "expected.safetensors")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def fields():
    table = {"text": SiglipTextConfig().to_dict(), "vision": SiglipVisionConfig().to_dict(), "processor": SiglipImageProcessor().to_dict()}
    for one in table.values():
        for name in ("transformers_version", "_name_or_path", "model_type", "image_processor_type"):
            one.pop(name, None)
    (OUT / "fields.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


write_model()
fields()
