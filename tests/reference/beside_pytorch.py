"""Draws per second of dtta beside PyTorch, on this machine, in turns: the tables of the examples' READMEs.

    cargo bench -p dtta --bench draws --no-run                      # prints the path of the benchmark
    python tests/reference/beside_pytorch.py PATH [dit|unet] [ROUNDS] [THREADS]

Each round measures every micro-batch once in each program (`draws_per_second.py`: medians of 10 calls); a cell is the median over the rounds,
and the last line compares the best micro-batch of each. On an idle machine.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

MICRO_BATCHES = {"dit": [16, 32, 64, 160, 320], "unet": [8, 16, 40, 80, 160]}
UNITS = {"item/s": 1, "Kitem/s": 1e3, "Mitem/s": 1e6}


def ours(bench: str, name: str, micro_batch: int, threads: int) -> float:
    """The rate under the column of medians, the third."""
    command = [bench, "--bench", "--exact", f"draws::{name}::{micro_batch}"]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    rates = re.findall(r"([\d.]+) ([KM]?item/s)", text)
    value, unit = rates[2]
    return float(value) * UNITS[unit]


def theirs(name: str, micro_batch: int, threads: int) -> float:
    script = str(Path(__file__).with_name("draws_per_second.py"))
    command = [sys.executable, script, name, "cpu", str(micro_batch), str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["draws_per_second"]


def processor() -> str:
    fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
    widest = next((name for name in ("avx512f", "avx2") if name in fields["flags"].split()), "no AVX2")
    return f"{fields['model name']}, {widest}"


def main() -> None:
    bench, *rest = sys.argv[1:]
    name = rest[0] if rest else "dit"
    rounds = int(rest[1]) if len(rest) > 1 else 3
    threads = int(rest[2]) if len(rest) > 2 else 2
    sizes = MICRO_BATCHES[name]
    rates = {size: ([], []) for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            rates[size][0].append(ours(bench, name, size, threads))
            rates[size][1].append(theirs(name, size, threads))
    medians = [[statistics.median(rates[size][program]) for size in sizes] for program in (0, 1)]
    print(f"{name}, {processor()}, {threads} threads, {rounds} rounds\n")
    print("| micro-batch | " + " | ".join(map(str, sizes)) + " |\n| --- |" + " --- |" * len(sizes))
    for label, row in zip(("`cpu`", "PyTorch"), medians):
        print(f"| {label} | " + " | ".join(f"{rate:,.0f}" for rate in row) + " |")
    print(f"\nat the best micro-batch of each: {max(medians[0]) / max(medians[1]):.2f}")


if __name__ == "__main__":
    main()
