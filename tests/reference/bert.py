"""Writes the fixtures that hold BERT's tokenizer and text encoder to transformers: run by hand, results are committed.

    python tests/reference/bert.py [core/models/tests/fixtures/bert]

Needs torch, transformers 5, tokenizers, safetensors. Every folder has random values and a tokenizer of few words.

- pooler/: a `BertModel` by itself, as the library saves it;
- sentences/: one with the files of sentence-transformers, mean and normalisation, whose names are those of a first checkpoint;
- strings.json.gz: the tokens that the tokenizer makes of the 1,000 strings of `text.py`;
- fields.json: the fields of the class with their defaults.

With MODEL, the folder of all-MiniLM-L6-v2, and WORK, writes what the opt-in test `tests/real_text.sh` expects of real weights:

    python tests/reference/bert.py --real MODEL WORK
"""

import collections
import gzip
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizer

STRINGS = pathlib.Path(__file__).parents[2] / "core/models/tests/fixtures/text/strings.json.gz"
PROMPTS = ["a photo of a cat.", "A photo of a very long-haired dog!", "été à Łódź 42", "one two three four five six seven eight nine ten"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def strings():
    return json.loads(gzip.open(STRINGS).read())["strings"]


def write_tokenizer(folder):
    """Letters, word pieces of two letters, and the words that strings have most often."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer()
    words = collections.Counter(w for s in strings() for w, _ in split.pre_tokenize_str(normalizer.normalize_str(s)))
    letters = collections.Counter(c for w in words for c in w)
    common = [c for c, _ in letters.most_common(220)]
    pairs = collections.Counter(w[n : n + 2] for w in words for n in range(1, len(w) - 1))
    vocabulary = [*SPECIAL, *common, *(f"##{c}" for c in common), *(f"##{p}" for p, _ in pairs.most_common(60)),
                  *(w for w, _ in words.most_common(150) if len(w) > 1)]
    vocabulary = {w: n for n, w in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(SPECIAL)
    # As published folders have it; whoever fills texts up says how.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "do_lower_case": True, "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
        "tokenize_chinese_chars": True, "strip_accents": None, "do_basic_tokenize": True, "never_split": None,
        "tokenizer_class": "BertTokenizer", "model_max_length": 80}))
    return len(vocabulary)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        if "embeddings.weight" in name:
            p.data = 0.6 * draw
        elif p.dim() > 1:
            p.data = draw * 1.2 * p[0].numel() ** -0.5
        else:
            p.data = draw * 0.3 + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return model.eval()


def encode(model, tokenizer, texts, length):
    with torch.no_grad():
        given = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        answer = model(**given)
        # As sentence-transformers' modules Pooling and Normalize compute it.
        shown = given.attention_mask[..., None].float()
        mean = (answer.last_hidden_state * shown).sum(1) / shown.sum(1).clamp(min=1e-9)
        return given.input_ids, answer.last_hidden_state, answer.pooler_output, torch.nn.functional.normalize(mean, dim=1)


def write_model(out, name, seed, sentences, positions, **config):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    words = write_tokenizer(folder)
    config = BertConfig(vocab_size=words, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                        max_position_embeddings=positions, **config)
    model = randomise(BertModel(config), seed)
    tokenizer = BertTokenizer.from_pretrained(folder)
    ids, tokens, pooler, normal = encode(model, tokenizer, PROMPTS, 20)
    model.save_pretrained(folder)
    if sentences:
        older = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): p.contiguous()
                 for n, p in model.state_dict().items()}
        older["embeddings.position_ids"] = torch.arange(positions)[None]
        save_file(older, folder / "model.safetensors")
        modules = ["Transformer", "Pooling", "Normalize"]
        places = ["", "1_Pooling", "2_Normalize"]
        (folder / "modules.json").write_text(json.dumps([
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{module}"}
            for n, (module, path) in enumerate(zip(modules, places))], indent=2))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({
            "word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}, indent=2))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"__version__": {"sentence_transformers": "2.0.0"}}))
    save_file({"input.ids": ids.float(), "output.tokens": tokens.contiguous(), "output.pooled": (normal if sentences else pooler).contiguous()},
              folder / "expected.safetensors")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    return tokenizer


def write_fields(out):
    fields = BertConfig().to_dict()
    for name in ("transformers_version", "_name_or_path", "model_type"):
        fields.pop(name, None)
    (out / "fields.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def fixtures(out):
    tokenizer = write_model(out, "pooler", 1, False, 80, hidden_act="gelu_new", type_vocab_size=3)
    write_model(out, "sentences", 2, True, 24)
    ids = [tokenizer(s).input_ids for s in strings()]
    cut = [tokenizer(s, padding="max_length", max_length=12, truncation=True).input_ids for s in strings()[:200]]
    text = json.dumps({"ids": ids, "filled_to_12": cut}).encode()
    gzip.GzipFile(out / "strings.json.gz", "wb", 9, mtime=0).write(text)
    unknown = sum(row.count(1) for row in ids)
    print("tokens:", sum(map(len, ids)), "unknown:", unknown, "longest:", max(map(len, ids)))
    write_fields(out)


def real(model, work):
    """The tokens of the 1,000 strings, and what the model makes of those that have some."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizer.from_pretrained(model)
    bert = BertModel.from_pretrained(model).eval()
    every = strings()
    (work / "strings.json").write_text(json.dumps({"strings": every, "ids": [tokenizer(s).input_ids for s in every]}))
    parts = [encode(bert, tokenizer, every[n : n + 50], 64) for n in range(0, len(every), 50)]
    ids, tokens, _, pooled = (torch.cat(part) for part in zip(*parts))
    save_file({"input.ids": ids.float(), "output.tokens": tokens[:200].contiguous(), "output.pooled": pooled.contiguous()},
              work / "expected.safetensors")
    print("strings:", len(every), "largest token:", tokens.abs().max().item())


if sys.argv[1:2] == ["--real"]:
    real(*map(pathlib.Path, sys.argv[2:]))
else:
    fixtures(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/bert"))
