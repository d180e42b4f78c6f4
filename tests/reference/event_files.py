"""Reads the event files of a run (`dtta run … --log tensorboard`) with TensorBoard's own reader and holds them against the run's records.

    python tests/reference/event_files.py runs/NAME

Needs the Python package `tensorboard` (2.21 was used). Exits with an error if a scalar, a step or a number differs.
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder = Path(sys.argv[1])
records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
summary = json.loads((folder / "summary.json").read_text())
events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=True)
events.Reload()
found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-6 * max(1.0, abs(other))


for tag, points in found.items():
    steps = [step for step, _ in points]
    assert steps == sorted(set(steps)), f"{tag}: a step is there twice, or out of order"
metric = summary["metric"]
done = 0
for domain in summary["domains"]:
    done += domain["samples"] + domain.get("skipped", 0)
    for side in ("source", "adapted"):
        step, value = found[f"{metric}/{domain['name']}/{side}"][-1]
        assert step == done and near(value, domain[side][metric]), (domain["name"], side, step, value)
for side in ("source", "adapted"):
    ((step, value),) = found[f"{metric}/mean/{side}"]
    assert step == len(records) and near(value, summary["mean"][side][metric]), (side, step, value)
for tag, place in (("loss/first", 0), ("loss/last", -1)):
    expected = [(n, record["loss"][place]) for n, record in enumerate(records, 1) if record["loss"]]
    points = found.get(tag, [])
    assert len(points) == len(expected), (tag, len(points), len(expected))
    assert all(a[0] == b[0] and near(a[1], b[1]) for a, b in zip(points, expected)), tag
print(f"{len(found)} scalars, {sum(map(len, found.values()))} points: as the run's records and summary say")
