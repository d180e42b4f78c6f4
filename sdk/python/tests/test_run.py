import json
import re
import signal
import threading
import time

import pytest
from conftest import told

import dtta

SHIPPED = [
    "fashion/online.json",
    "fashion/single-sample.json",
    "doom/segmentation-online.json",
    "doom/segmentation-single-sample.json",
    "doom/depth-online.json",
    "doom/depth-single-sample.json",
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_gives_the_records_of_the_command(name, examples, command, tmp_path):
    command("run", examples / name, "--set", "data.stream.samples=3", "--device", "cpu", "--out", tmp_path / "a")
    run = dtta.run(examples / name, {"data.stream.samples": 3}, out=tmp_path / "b", progress=False)
    assert told(tmp_path / "a") == told(tmp_path / "b")
    assert (tmp_path / "a/samples.bin").read_bytes() == (tmp_path / "b/samples.bin").read_bytes()
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    assert run.summary.source == summary["mean"]["source"]
    assert run.summary.adapted == summary["mean"]["adapted"]
    assert run.summary.protocol == summary["protocol"]


def few(examples, tmp_path, **more):
    changes = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}
    return dtta.run(examples / "fashion/single-sample.json", changes, out=tmp_path, progress=False, **more)


def test_a_run_is_loaded_with_its_records_by_column_and_its_summary(examples, tmp_path):
    few(examples, tmp_path / "run")
    run = dtta.load(tmp_path / "run")
    assert run.status == "finished"
    assert run.records.rows == sum(domain.samples for domain in run.summary.domains) == 30
    assert run.records["domain"][:2] == ["clean", "clean"]
    assert all(0 <= confidence <= 1 for confidence in run.records["adapted.confidence"])
    assert all(len(losses) == 1 for losses in run.records["loss"])
    lead = run.summary.metric
    for domain in run.summary.domains:
        assert domain.gain[lead] == domain.adapted[lead] - domain.source[lead]
    assert not run.summary.domains[0].averaged


def test_records_are_a_frame(examples, tmp_path):
    pandas = pytest.importorskip("pandas")
    records = few(examples, tmp_path / "run").records
    frame = records.to_pandas()
    assert list(frame.columns) == list(records)
    assert frame["id"].tolist() == records["id"]


def test_records_are_a_stream_of_arrow_without_pyarrow(examples, tmp_path):
    nanoarrow = pytest.importorskip("nanoarrow")
    records = few(examples, tmp_path / "run").records
    stream = nanoarrow.ArrayStream(records)
    types = {field.name: field.type.name for field in stream.schema.fields}
    assert list(types) == list(records)
    assert types["position"] == types["adapted.prediction"] == "INT64"
    assert types["id"] == "STRING" and types["milliseconds"] == "DOUBLE" and types["loss"] == "LIST"
    rows = stream.read_all().to_pylist()
    assert rows == [dict(zip(records, row)) for row in zip(*records.values())]


def test_columns_of_arrow_have_the_types_of_their_values():
    nanoarrow = pytest.importorskip("nanoarrow")
    columns = {
        "truth": [True, None, False],
        "integer": [1, None, -(2**63)],
        "number": [1, 2.5, None],
        "text": ["ä", None, ""],
        "numbers": [[], None, [1, 0.5, None]],
        "nothing": [None, None, None],
    }
    read = nanoarrow.ArrayStream(dtta.Records(columns)).read_all()
    assert read.to_pylist() == [dict(zip(columns, row)) for row in zip(*columns.values())]
    names = [field.type.name for field in read.schema.fields]
    assert names == ["BOOL", "INT64", "DOUBLE", "STRING", "LIST", "NULL"]
    assert nanoarrow.ArrayStream(dtta.Records({})).read_all().to_pylist() == []
    # A capsule that nobody takes over frees what it holds.
    del read
    dtta.Records(columns).__arrow_c_stream__()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"mixed": [1, "one"]}, "column `mixed`: row 1 is <class 'str'>"),
        ({"object": [{}]}, "column `object`: row 0 is <class 'dict'>"),
        ({"words": [["one"]]}, "column `words`"),
        ({"large": [2**63]}, "column `large`"),
        ({"number": 1}, "column `number`"),
    ],
)
def test_what_arrow_is_not_given_is_refused_by_its_column(columns, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        dtta.Records(columns).__arrow_c_stream__()


def test_columns_of_other_lengths_are_no_table():
    with pytest.raises(ValueError, match="length"):
        dtta.Records({"a": [1], "b": [1, 2]}).__arrow_c_stream__()


@pytest.mark.parametrize("library", ["polars", "pyarrow", "duckdb"])
def test_libraries_read_the_stream(library, examples, tmp_path):
    module = pytest.importorskip(library)
    records = few(examples, tmp_path / "run").records

    class Stream:
        """Nothing but the stream, so that no library takes the dict."""

        def __arrow_c_stream__(self, requested_schema=None):
            return records.__arrow_c_stream__(requested_schema)

    stream = Stream()
    if library == "polars":
        found = module.DataFrame(stream).to_dict(as_series=False)
    elif library == "pyarrow":
        found = module.table(stream).to_pydict()
    else:
        relation = module.sql("select * from stream")
        found = dict(zip(relation.columns, map(list, zip(*relation.fetchall()))))
    assert found == dict(records)


def test_a_record_that_was_cut_short_is_left_out(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"id": "a", "source": {"prediction": 1}}\n{"id": "b"}\n{"id": "c", "sou')
    records = dtta.Records.read(tmp_path / "records.jsonl")
    assert dict(records) == {"id": ["a", "b"], "source.prediction": [1, None]}


def test_every_fault_is_named_by_file_and_pointer(examples):
    path = examples / "fashion/online.json"
    dtta.validate(path)
    with pytest.raises(dtta.ExperimentError) as found:
        dtta.validate(path, {"method.draws": 0, "adaptation.batch": "ten"})
    assert found.value.file == str(path)
    assert {issue.pointer for issue in found.value.issues} == {"/method/draws", "/adaptation/batch"}
    assert found.value.pointer in ("/method/draws", "/adaptation/batch")
    assert "draws" in found.value.message and str(found.value) == found.value.message


def test_an_experiment_may_be_a_dict(examples):
    value = json.loads((examples / "fashion/online.json").read_text())
    dtta.validate(value)
    del value["models"]
    with pytest.raises(dtta.ExperimentError, match="models"):
        dtta.validate(value)


def test_faults_of_files_and_folders_name_them(examples, tmp_path):
    with pytest.raises(dtta.ExperimentError) as found:
        dtta.run(tmp_path / "none.json", progress=False)
    assert found.value.file == str(tmp_path / "none.json")
    with pytest.raises(dtta.ExperimentError, match="holds no run"):
        dtta.load(tmp_path)
    few(examples, tmp_path / "run")
    with pytest.raises(dtta.ExperimentError) as found:
        few(examples, tmp_path / "run")
    assert found.value.file == str(tmp_path / "run")
    few(examples, tmp_path / "run", force=True)
    with pytest.raises(ValueError, match="choose one"):
        few(examples, tmp_path / "run", force=True, resume=True)
    with pytest.raises(ValueError, match="object stores"):
        few(examples, "s3://bucket/run")
    with pytest.raises(ValueError, match="gpu"):
        few(examples, tmp_path / "other", device="gpu")


def test_ctrl_c_ends_a_run_that_resume_continues_to_the_same_records(examples, tmp_path):
    whole = few(examples, tmp_path / "whole")
    seen = []

    def interrupt(done, total, domain):
        seen.append((done, total))
        if done >= 6:
            signal.raise_signal(signal.SIGINT)

    changes = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}
    path = examples / "fashion/single-sample.json"
    # A process that was started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dtta.run(path, changes, out=tmp_path / "run", progress=interrupt, checkpoint_every=0)
    finally:
        signal.signal(signal.SIGINT, before)
    part = dtta.load(tmp_path / "run")
    assert part.status == "interrupted" and part.summary is None
    assert 6 <= part.records.rows < 30 and seen[-1][1] == 30
    run = few(examples, tmp_path / "run", resume=True)
    assert told(tmp_path / "run") == told(tmp_path / "whole")
    assert run.summary.adapted == whole.summary.adapted


def test_what_a_progress_function_raises_comes_back(examples, tmp_path):
    class Mine(Exception):
        pass

    def fail(done, total, domain):
        raise Mine("of the notebook")

    with pytest.raises(Mine, match="of the notebook"):
        changes = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}
        dtta.run(examples / "fashion/single-sample.json", changes, out=tmp_path, progress=fail)


def test_other_threads_of_python_go_on_during_a_run(examples, tmp_path):
    done, turns = threading.Event(), []

    def count():
        while not done.is_set():
            turns.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    begun = time.monotonic()
    few(examples, tmp_path / "run")
    ended = time.monotonic()
    done.set()
    thread.join()
    during = [turn for turn in turns if begun < turn < ended]
    # A held lock would leave gaps as long as the run.
    longest = max(b - a for a, b in zip([begun, *during], [*during, ended]))
    assert longest < 0.5 * (ended - begun), (longest, ended - begun)
