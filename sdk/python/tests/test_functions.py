import json
import random

import pytest
from conftest import ROOT, needs, told

needs("torch", "numpy")

import torch
from torch import nn

import dtta
from dtta._functions import digest

FEW = {"data.stream.samples": 3, "method.steps": 2, "method.draws": 2}
PATH = "fashion/single-sample.json"


@pytest.fixture(scope="module")
def table(examples):
    denoiser = dtta.Denoiser(examples / "fashion/models/denoiser.json")
    return torch.from_dlpack(denoiser.constants()["class-embeddings"]).clone()


def mixer(table):
    def mix(outputs):
        return {"class-embedding": outputs["logits"].softmax(-1) @ table}

    return mix


def correct(predictions, targets):
    assert predictions["class"].dtype == targets["class"].dtype == torch.int64
    assert predictions["class"].shape == targets["class"].shape == (1,)
    hit = (predictions["class"] == targets["class"]).float().item()
    return {"right": hit, "distance": abs(predictions["class"].item() - targets["class"].item())}


METRIC = dtta.Metric(correct, {"right": dtta.Score(higher_is_better=True, unit="share"), "distance": dtta.Score(higher_is_better=False)})


def run(examples, out, **more):
    return dtta.run(examples / PATH, FEW, out=out, progress=False, **more)


def close(records, others):
    for name in records:
        if name == "milliseconds":
            continue
        for found, expected in zip(records[name], others[name], strict=True):
            assert found == (pytest.approx(expected, rel=1e-4) if isinstance(expected, (float, list)) else expected), name


def test_a_function_maps_as_the_plugin_does(examples, table, tmp_path):
    value = json.loads((examples / PATH).read_text())
    # What the plugin does without options.
    plain = {**FEW, "plugins.mapper.config": {}}
    assert "class" in value["plugins"]["mapper"]["use"]
    ours = dtta.run(examples / PATH, plain, out=tmp_path / "a", progress=False)
    theirs = run(examples, tmp_path / "b", mapper=mixer(table))
    close(ours.records, theirs.records)
    assert ours.records["source.confidence"] != ours.records["adapted.confidence"]
    name = "python:test_functions.mixer.<locals>.mix"
    assert theirs.description["experiment"]["plugins"]["mapper"] == {"use": name, "config": {}}
    assert theirs.description["plugins"]["mapper"] == {"name": name, "version": "unversioned", "loader": "program"}
    assert theirs.summary.protocol["digests"]["mapper/program"] == digest(mixer(table))
    assert "mapper" not in theirs.summary.protocol["digests"]
    # One tensor stands for the only slot.
    again = run(examples, tmp_path / "c", mapper=lambda outputs: outputs["logits"].softmax(-1) @ table)
    assert again.records["loss"] == theirs.records["loss"]


def test_a_function_scores_each_sample_and_means_are_reported(examples, tmp_path):
    ours = run(examples, tmp_path / "a")
    theirs = run(examples, tmp_path / "b", metric=METRIC)
    assert theirs.summary.metric == "right"
    for domain, other in zip(ours.summary.domains, theirs.summary.domains, strict=True):
        assert other.source["right"] == pytest.approx(domain.source["accuracy"], abs=1e-12)
        assert other.adapted["right"] == pytest.approx(domain.adapted["accuracy"], abs=1e-12)
    scores = theirs.description["scores"]
    assert scores[0] == {"name": "right", "higher_is_better": True, "unit": "share", "leads": True}
    assert theirs.description["plugins"]["metric"]["loader"] == "program"
    assert theirs.summary.protocol["digests"]["metric/program"] == digest(correct)
    assert theirs.summary.raw["domains"][1]["intervals"]
    bare = run(examples, tmp_path / "c", metric=correct)
    assert bare.summary.source == theirs.summary.source


def test_what_cannot_be_known_to_be_the_same_is_not_continued(examples, table, command, tmp_path):
    first = run(examples, tmp_path / "run", mapper=mixer(table), metric=METRIC)
    again = run(examples, tmp_path / "run", mapper=mixer(table), metric=METRIC, resume=True)
    assert again.records == first.records
    for more, what in [
        ({"mapper": mixer(table + 1), "metric": METRIC}, "mapper/program"),
        ({"mapper": mixer(table), "metric": lambda predictions, targets: {"right": 1.0, "distance": 0.0}}, "metric"),
        ({"metric": METRIC}, "mapper"),
        ({"mapper": mixer(table)}, "metric"),
    ]:
        with pytest.raises(dtta.ExperimentError, match=what):
            run(examples, tmp_path / "run", resume=True, **more)
    generator = torch.Generator()

    def unknown(outputs):
        noise = torch.rand(1, generator=generator) * 0
        return outputs["logits"].softmax(-1) @ table + noise

    run(examples, tmp_path / "unknown", mapper=unknown)
    with pytest.raises(dtta.ExperimentError, match="mapper/program"):
        run(examples, tmp_path / "unknown", mapper=unknown, resume=True)


def test_shards_with_functions_merge_where_their_metric_is_a_plugin(examples, table, command, tmp_path):
    whole = run(examples, tmp_path / "whole", mapper=mixer(table))
    parts = [tmp_path / "0", tmp_path / "1"]
    for place, part in enumerate(parts):
        run(examples, part, mapper=mixer(table), shard=f"{place}/2")
    command("merge", *parts, "--out", tmp_path / "merged")
    assert told(tmp_path / "merged") == told(tmp_path / "whole")
    assert dtta.load(tmp_path / "merged").summary.adapted == whole.summary.adapted
    run(examples, tmp_path / "other", mapper=mixer(table * 2), shard="1/2")
    with pytest.raises(Exception) as refused:
        command("merge", parts[0], tmp_path / "other", "--out", tmp_path / "mixed")
    assert "mapper/program" in refused.value.stderr
    run(examples, tmp_path / "scored", metric=METRIC)
    with pytest.raises(Exception) as refused:
        command("merge", tmp_path / "scored", "--out", tmp_path / "mixed")
    assert "function of the program that ran it" in refused.value.stderr
    assert not (tmp_path / "mixed/run.json").exists()


def test_what_functions_raise_comes_back_or_is_skipped_as_the_policy_says(examples, table, tmp_path):
    class Mine(Exception):
        pass

    def sometimes(outputs):
        if (outputs["logits"].argmax(-1) == 6).any():
            raise Mine("no shirts")
        return outputs["logits"].softmax(-1) @ table

    with pytest.raises(Mine, match="no shirts"):
        run(examples, tmp_path / "a", mapper=sometimes)
    skipping = {**FEW, "plugins.on_failure": "skip"}
    found = dtta.run(examples / PATH, skipping, out=tmp_path / "b", progress=False, mapper=sometimes)
    assert 0 < found.summary.skipped < found.records.rows
    assert any("no shirts" in (reason or "") for reason in found.records["skipped"])

    def interrupted(predictions, targets):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dtta.run(examples / PATH, skipping, out=tmp_path / "c", progress=False, metric=interrupted)

    def broken(predictions, targets):
        raise Mine("no score")

    with pytest.raises(Mine, match="no score"):
        run(examples, tmp_path / "d", metric=broken)


def test_answers_that_do_not_fit_are_refused_by_name(examples, table, tmp_path):
    for place, (mapper, message) in enumerate([
        (lambda outputs: {"class-embeding": outputs["logits"] @ table}, "class-embeding"),
        (lambda outputs: {"class-embedding": outputs["logits"]}, "expected"),
        (lambda outputs: None, "NoneType"),
        (lambda outputs: outputs["logits"].detach().softmax(-1) @ table, "nothing would be adapted"),
    ]):
        with pytest.raises(Exception, match=message):
            run(examples, tmp_path / str(place), mapper=mapper)
    for place, (metric, message) in enumerate([
        (lambda predictions, targets: 1.0, "float"),
        (lambda predictions, targets: {"x": float("nan")}, "`x` of a sample is NaN"),
        (lambda predictions, targets: {}, "no scores"),
        (dtta.Metric(correct, {"right": dtta.Score()}), "says \\['right'\\]"),
    ]):
        with pytest.raises(Exception, match=message):
            run(examples, tmp_path / f"metric-{place}", metric=metric)
    with pytest.raises(TypeError, match="expected a function"):
        run(examples, tmp_path / "no", mapper=5)


def test_a_digest_is_of_all_that_a_function_refers_to():
    def of(value):
        return lambda outputs: outputs["x"] * value

    class Layer(nn.Module):
        def __init__(self, factor):
            super().__init__()
            torch.manual_seed(0)
            self.factor, self.inner = factor, nn.Linear(2, 2)

        def forward(self, outputs):
            return self.inner(outputs["x"]) * self.factor

    for same, other in [(of(1), of(2)), (of(torch.ones(2)), of(torch.zeros(2))), (Layer(1), Layer(2)), (of(Layer(1)), of(Layer(2)))]:
        assert digest(same) == digest(same) != digest(other)
    assert digest(of([1, {"a": (2.0, None)}])) == digest(of([1, {"a": (2.0, None)}]))
    first, second = lambda x: 1, lambda x: 2
    assert digest(first) != digest(second)
    for unknown in (of(random.Random(0)), of(torch.Generator())):
        assert digest(unknown) != digest(unknown)


def test_the_readmes_functions_run(examples, tmp_path, monkeypatch):
    text = (ROOT / "sdk/python/README.md").read_text()
    section = text[text.index("## Functions in the place of plugins") :]
    code = section[section.index("```python\n") + len("```python\n") :]
    code = code[: code.index("```")]
    ran = []

    def run(path, run=dtta.run, **given):
        ran.append(run(path, {"data.stream.samples": 2, "adaptation.batch": 2, "method.draws": 2}, out=tmp_path / "run", progress=False, **given))

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(dtta, "run", run)
    exec(compile(code, "README.md", "exec"), {"dtta": dtta, "torch": torch, "nn": nn, "path": examples / "fashion/online.json"})
    assert ran[0].summary.metric == "top2" and 0 < ran[0].summary.source["top2"] <= 1
