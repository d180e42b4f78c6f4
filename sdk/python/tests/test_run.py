import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading

import pytest
from conftest import expect_other_threads_go_on, needed, told, while_it_runs

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
    pandas = needed("pandas")
    records = few(examples, tmp_path / "run").records
    frame = records.to_pandas()
    assert list(frame.columns) == list(records)
    assert frame["id"].tolist() == records["id"]
    assert pandas.DataFrame(records).equals(frame)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_records_are_a_table_of_other_libraries(library, examples, tmp_path):
    needed(library)
    records = few(examples, tmp_path / "run").records
    # A column whose first numbers are whole is one of numbers all the same.
    records["mixed"] = [1] * 29 + [0.5]
    if library == "polars":
        found = records.to_polars().to_dict(as_series=False)
    else:
        found = records.to_arrow().to_pydict()
    assert found == dict(records)


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
    module = needed(library)
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
    for out in ("s3://bucket/run", "s3:/bucket/run"):
        with pytest.raises(dtta.ExperimentError, match="address"):
            few(examples, out)
    assert not os.path.exists("s3:")
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


@pytest.mark.parametrize(
    ("place", "pointer"),
    [("data.dataset.path", None), ("models.backbone", None), ("models.denoiser", None), ("plugins.head.use", "/plugins/head/use")],
)
def test_what_an_experiment_names_and_is_not_there_can_be_mended(place, pointer, examples, tmp_path):
    path, nothing = examples / "fashion/single-sample.json", tmp_path / "nothing.json"
    with pytest.raises(dtta.ExperimentError, match="nothing.json") as found:
        dtta.run(path, {place: str(nothing)}, out=tmp_path / "run", progress=False)
    assert found.value.exit_code == 2 and not (tmp_path / "run").exists()
    # The file that is missing, or the place in the experiment that names it.
    assert (found.value.file, found.value.pointer) == (str(path if pointer else nothing), pointer)


def test_a_denoiser_that_is_not_there_can_be_mended(tmp_path):
    with pytest.raises(dtta.ExperimentError) as found:
        dtta.Denoiser(tmp_path / "none.json")
    assert found.value.file == str(tmp_path / "none.json")


def test_damaged_files_of_a_run_are_named(examples, tmp_path):
    folder = tmp_path / "run"
    few(examples, folder)
    for name, text, words in [
        ("records.jsonl", '{"id": "a"}\n{"id": \n{}\n', "line 2"),
        ("records.jsonl", '{"id": "a"}\n3\n', "line 2"),
        ("summary.json", '{"experiment": 1}', "lacks"),
        ("summary.json", '{"experiment', "not JSON"),
        ("run.json", '{"status": "lost"}', "no status"),
        ("run.json", "[]", "no object"),
        ("run.json", b"\xff", "not JSON"),
    ]:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(dtta.ExperimentError, match=words) as found:
            dtta.load(folder)
        assert found.value.file == str(folder / name)
        (folder / name).write_bytes(before)
    assert dtta.load(folder).status == "finished"


@pytest.mark.skipif(sys.platform == "win32", reason="locks as the test takes them")
def test_a_folder_in_which_another_process_works_is_for_later(examples, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(dtta.LockedError, match="another run") as found:
            few(examples, tmp_path / "run")
        assert found.value.exit_code == 75 and found.value.file == str(tmp_path / "run")
        assert isinstance(found.value, dtta.RunError)
    assert few(examples, tmp_path / "run").status == "finished"


def test_a_finished_shard_is_loaded_and_not_computed_again(examples, tmp_path):
    for shard in ("1/3", "0/1"):
        out = tmp_path / shard.replace("/", "-")
        first = few(examples, out, shard=shard)
        # Times would be others.
        assert few(examples, out, shard=shard).records == first.records
        assert first.status == "finished" and (out / "unit.json").exists()
        with pytest.raises(dtta.ExperimentError):
            few(examples, out, shard="2/3")
        assert few(examples, out, shard=shard, force=True).records != first.records
    whole = few(examples, tmp_path / "whole")
    assert few(examples, tmp_path / "whole", resume=True).records == whole.records


ENGINES = ["SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK", "RANK", "WORLD_SIZE"]


def test_a_shard_is_what_the_environment_says(examples, tmp_path, monkeypatch):
    for name in ENGINES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="shard is `auto`: no engine"):
        few(examples, tmp_path / "none", shard="auto")
    with pytest.raises(ValueError, match="`3` is not a shard"):
        few(examples, tmp_path / "none", shard="3")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    few(examples, tmp_path / "auto", shard="auto")
    assert json.loads((tmp_path / "auto/unit.json").read_text())["shard"] == "1/3"
    assert not (tmp_path / "none").exists()


LONG = """
import sys, dtta
try:
    changes = {"data.stream.samples": 4, "adaptation.batch": 1, "method.steps": 2, "method.draws": 60}
    dtta.run(sys.argv[1], changes, out=sys.argv[2], shard="0/2", checkpoint_every=1000)
    print("it goes on")
except Exception as error:
    print("caught", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_ends_a_program_with_a_checkpoint_and_the_code_to_try_again(examples, tmp_path):
    path, work = examples / "fashion/single-sample.json", tmp_path / "part.unfinished"

    def begin(out):
        return subprocess.Popen([sys.executable, "-c", LONG, path, tmp_path / out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for name, lines in [("SIGTERM", 2), ("SIGHUP", 5)]:
        process = begin("part")
        while_it_runs(process, lambda: (work / "records.jsonl").exists() and len((work / "records.jsonl").read_text().splitlines()) >= lines)
        process.send_signal(getattr(signal, name))
        said, complaints = process.communicate()
        # Neither went the program on, nor was it caught as an error.
        assert (process.returncode, said) == (75, ""), complaints
        assert "stopping after this batch" in complaints
        part = dtta.load(work)
        assert part.status == "interrupted"
        checkpoint = json.loads((work / "checkpoint.json").read_text())
        assert checkpoint["done"]["samples"] == part.records.rows >= lines
    for out in ("part", "part", "whole"):
        process = begin(out)
        said, complaints = process.communicate()
        assert (process.returncode, said) == (0, "it goes on\n"), complaints
    assert told(tmp_path / "part") == told(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_signals_are_what_they_were_before_and_those_with_handlers_are_left_alone(examples, tmp_path):
    changes = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}
    path = examples / "fashion/single-sample.json"

    def run(number, **more):
        def interrupt(done, total, domain):
            if done == 0:
                signal.raise_signal(number)

        return dtta.run(path, changes, out=tmp_path / "run", progress=interrupt, force=True, **more)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = []
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(dtta.Interrupted) as found:
            run(signal.SIGTERM)
        assert found.value.signal == signal.SIGTERM and found.value.code == found.value.exit_code == 75
        assert isinstance(found.value, SystemExit) and "SIGTERM" in str(found.value)
        with pytest.raises(KeyboardInterrupt):
            run(signal.SIGINT)
        assert dtta.load(tmp_path / "run").status == "interrupted"
        # It reaches the process that waits for this one.
        again = pickle.loads(pickle.dumps(found.value))
        assert type(again) is dtta.Interrupted and again.signal == signal.SIGTERM and again.code == 75

        # What fails beside a stop is told, not the stop.
        def broken(done, total, domain):
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("of mine")

        with pytest.raises(ValueError, match="of mine"):
            dtta.run(path, changes, out=tmp_path / "run", progress=broken, force=True)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        assert run(signal.SIGTERM).status == "finished" and heard == [signal.SIGTERM]
        # Elsewhere than in the main thread, nobody may say what signals do.
        ended = []
        thread = threading.Thread(target=lambda: ended.append(few(examples, tmp_path / "thread")))
        thread.start()
        thread.join()
        assert ended[0].status == "finished"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_ctrl_c_does_not_wait(examples, tmp_path):
    raised = []

    def interrupt(done, total, domain):
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raised.append(done)
            raise

    changes = {"data.stream.samples": 2, "method.steps": 1, "method.draws": 2}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            dtta.run(examples / "fashion/single-sample.json", changes, out=tmp_path / "run", progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert raised == [0]


def test_a_run_is_shown_in_a_line_and_in_a_notebook_as_a_small_table(examples, tmp_path):
    run = few(examples, tmp_path / "<run>")
    assert repr(run) == str(run) and "\n" not in repr(run) and len(repr(run)) < 300
    for word in (str(tmp_path), "finished", "30 records", run.summary.metric):
        assert word in repr(run)
    html = run._repr_html_()
    assert html.count("<tr>") == 1 + 15 + 1 and len(html) < 3000
    assert "&lt;run&gt;" in html and "<run>" not in html
    assert len(repr(run.summary)) < 8000 and "digests" not in repr(run.summary)
    (tmp_path / "<run>/summary.json").unlink()
    assert dtta.load(tmp_path / "<run>")._repr_html_().startswith("<p>dtta.Run(")


def test_other_threads_of_python_go_on_during_a_run(examples, tmp_path):
    expect_other_threads_go_on(lambda: few(examples, tmp_path / "run"))
