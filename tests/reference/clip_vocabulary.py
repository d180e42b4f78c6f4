"""The files of CLIP's tokenizer, which follow from its merges."""

import json


def byte_letters():
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [*map(chr, printable), *(chr(256 + n) for n in range(len(others)))]


def tokenizer_files(folder, merges):
    letters = byte_letters()
    words = [*letters, *(f"{x}</w>" for x in letters), *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(words)
