"""Runs the fashion example in 8 shards through examples/cluster/ray_driver.py, kills two of its workers at random moments, and holds records,
accumulators and summary to those of the unbroken run.

    pip install ray
    python tests/ray.py [DTTA]

Needs Linux.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = str(ROOT / "examples/fashion/online.json")
OPTIONS = ["--device", "cpu", "--set", "data.stream.samples=20", "--set", "adaptation.batch=5"]
KILLS = 2
TIMES = {"milliseconds", "seconds_per_sample", "draws_per_second", "peak_memory_bytes"}


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def runs(out):
    """The process ids of runs of a shard into a folder, with their parents: Ray's workers."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--shard" in words and any(word.startswith(os.fsencode(out)) for word in words):
                stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                yield int(folder.name), int(stat[1])
        except (OSError, ValueError):
            continue


def kill_workers(out, over, killed):
    """Kills workers while they run a shard, not the run itself, until enough are."""
    while len(killed) < KILLS and not over.is_set():
        found = [parent for _, parent in runs(out) if parent > 1]
        if not found:
            time.sleep(0.05)
            continue
        time.sleep(random.uniform(0.2, 1.5))
        worker = random.choice(found)
        if worker in (parent for _, parent in runs(out)):
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
            time.sleep(1)


def main():
    dtta = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/dtta")
    with tempfile.TemporaryDirectory() as work:
        whole, out = os.path.join(work, "unbroken"), os.path.join(work, "ray")
        subprocess.run([dtta, "run", EXPERIMENT, "--out", whole, *OPTIONS], check=True, stdout=subprocess.DEVNULL)
        over, killed = threading.Event(), []
        killer = threading.Thread(target=kill_workers, args=(out, over, killed))
        killer.start()
        driver = [sys.executable, str(ROOT / "examples/cluster/ray_driver.py"), EXPERIMENT, "--out", out]
        begun = time.monotonic()
        subprocess.run([*driver, "--shards", "8", "--checkpoint-every", "0", "--dtta", dtta, "--", *OPTIONS], check=True)
        took = time.monotonic() - begun
        over.set()
        killer.join()
        assert len(killed) == KILLS, f"{len(killed)} of {KILLS} workers were killed in time; give it more samples"

        def records(folder):
            return [timeless(json.loads(line)) for line in (Path(folder) / "records.jsonl").open()]

        merged = os.path.join(out, "whole")
        assert records(merged) == records(whole)
        assert (Path(merged) / "samples.bin").read_bytes() == (Path(whole) / "samples.bin").read_bytes()
        summaries = [timeless(json.loads((Path(folder) / "summary.json").read_text())) for folder in (merged, whole)]
        assert summaries[0] == summaries[1]
        # No shard was begun under another name, and none is left half done.
        parts = sorted(os.listdir(os.path.join(out, "parts")))
        assert len(parts) == 8, parts
        print(f"{len(records(merged))} records in 8 shards, {KILLS} workers killed, {took:.0f} s: equal")


if __name__ == "__main__":
    main()
