"""The recipes of `examples/cluster` that are in Python, with stand-ins for the engines."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, needs, told, while_it_runs

RECIPES = ROOT / "examples/cluster"
EXPERIMENT = ROOT / "examples/fashion/single-sample.json"

# The part of submitit that the recipe needs, and what it does with a job: it calls it, and when its signal comes, asks it for a checkpoint and
# queues the answer again. Here that is the same process, as often as it is signalled.
SUBMITIT = """
import pickle, signal, sys

class helpers:
    class DelayedSubmission:
        def __init__(self, function):
            self.function = function

class Again(BaseException):
    pass

def asked(number, frame):
    queued = pickle.dumps(job.checkpoint().function)
    raise Again(queued)

def process(function):
    global job
    job = function
    signal.signal(signal.SIGUSR2, asked)
    while True:
        try:
            return job()
        except Again as again:
            job = pickle.loads(again.args[0])
            print("queued again", flush=True)

class Job:
    def __init__(self, function):
        self.function = function

    def result(self):
        return process(self.function)

class AutoExecutor:
    def __init__(self, folder, cluster):
        print("folder", folder, flush=True)

    def update_parameters(self, **parameters):
        pass

    def batch(self):
        import contextlib
        return contextlib.nullcontext()

    def submit(self, function):
        return Job(function)
"""


@pytest.fixture
def submitit(tmp_path, monkeypatch):
    """A module of that name."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/submitit.py").write_text(SUBMITIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


@pytest.mark.skipif(sys.platform == "win32", reason="submitit needs signals")
def test_a_job_of_submitit_that_is_preempted_is_queued_again_with_a_checkpoint(command, submitit, tmp_path):
    changes = ["--set", "data.stream.samples=2", "--set", "method.steps=2", "--set", "method.draws=40", "--device", "cpu"]
    command("run", EXPERIMENT, *changes, "--out", tmp_path / "whole")
    driver = [sys.executable, RECIPES / "submitit_run.py", EXPERIMENT, "--out", tmp_path / "out", "--shards", "2", "--local"]
    # With a group of its own, which is signalled as Slurm signals a job: all of it at once.
    job = subprocess.Popen(
        [*driver, "--dtta", command.program, "--", *changes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Where it hangs, the test fails and does not.
    watch = threading.Timer(300, os.killpg, (job.pid, signal.SIGKILL))
    watch.start()
    try:
        assert job.stdout.readline() == f"folder {tmp_path / 'out/submitit'}\n"
        for part, lines in [("0-of-2", 2), ("0-of-2", 5), ("1-of-2", 2)]:
            records = tmp_path / f"out/{part}.unfinished/records.jsonl"
            while_it_runs(job, lambda: records.exists() and len(records.read_text().splitlines()) >= lines)
            os.killpg(job.pid, signal.SIGUSR2)
            assert job.stdout.readline() == "queued again\n"
        _, complaints = job.communicate()
    finally:
        watch.cancel()
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, complaints
    assert complaints.count("interrupted after") == 3, complaints
    assert told(tmp_path / "out/whole") == told(tmp_path / "whole")


def test_a_place_in_an_object_store_is_passed_on(command, submitit, tmp_path):
    changes = ["--set", "data.stream.samples=1", "--set", "method.steps=1", "--set", "method.draws=2", "--device", "cpu"]
    driver = [sys.executable, RECIPES / "submitit_run.py", EXPERIMENT, "--out", f"file://{tmp_path}/bucket", "--shards", "2", "--local"]
    done = subprocess.run([*driver, "--dtta", command.program, "--", *changes], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What submitit writes is in no bucket.
    assert f"folder {tmp_path / 'submitit'}\n" in done.stdout
    for part in ("0-of-2", "1-of-2", "whole"):
        assert (tmp_path / "bucket" / part / "unit.json").exists()
    assert not list(tmp_path.glob("file:*"))


@pytest.mark.skipif(sys.platform == "win32", reason="slurm.sh is for bash")
def test_an_array_of_slurm_runs_networks_of_pytorch_and_is_merged_reported_and_compared(command, tmp_path):
    needs("torch", "torchvision", "diffusers")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text('#!/bin/sh\necho "$@" >>scontrol.log\n')
    (tmp_path / "bin/scontrol").chmod(0o755)
    # The recipe's `python3` is the one that runs this.
    (tmp_path / "bin/python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "bin/python3").chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    variables = {**clean, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "DTTA": str(RECIPES / "torch_run.py")}
    changes = ["--set", "data.stream.samples=4", "--set", 'data.stream.domains=[{"kind":"clean"},{"kind":"corrupted","corruption":"fog","severity":5}]']
    changes += ["--set", "method.draws=2", "--set", "method.steps=1", "--set", "adaptation.batch=1"]

    def task(index, *more):
        array = {"JOB_ID": "7", "TASK_ID": str(index), "TASK_COUNT": "2", "TASK_MIN": "0", "TASK_MAX": "1", "TASK_STEP": "1"}
        environment = {**variables, **{f"SLURM_ARRAY_{name}": value for name, value in array.items()}}
        script = ["bash", RECIPES / "slurm.sh", EXPERIMENT, "parts", *changes, *more]
        return subprocess.Popen(script, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    first = task(0)
    records = tmp_path / "parts/0-of-2.unfinished/records.jsonl"
    while_it_runs(first, lambda: records.exists() and len(records.read_text().splitlines()) >= 1)
    # The script alone, as `--signal=B:TERM` does.
    first.send_signal(signal.SIGTERM)
    _, complaints = first.communicate()
    assert first.returncode == 75, complaints
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_0\n"
    for index in (0, 1, 1):
        again = task(index)
        _, complaints = again.communicate()
        assert again.returncode == 0, complaints
    wrong = task(1, "--set", "no.such=1")
    _, complaints = wrong.communicate()
    assert wrong.returncode == 2 and "no" in complaints, complaints
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7_0\n"

    program = [sys.executable, RECIPES / "torch_run.py", "run", EXPERIMENT, *changes, "--out"]
    subprocess.run([*program, tmp_path / "whole"], check=True, env=variables, capture_output=True)
    command("merge", tmp_path / "parts/0-of-2", tmp_path / "parts/1-of-2", "--out", tmp_path / "merged", "--device", "cpu")
    assert told(tmp_path / "merged") == told(tmp_path / "whole") and len(told(tmp_path / "whole")) == 8
    command("report", tmp_path / "merged", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "python:torchvision.models.resnet.ResNet" in page and "python:diffusers" in page
    # Of the same experiment with dtta's own networks it says what they differ in.
    command("run", EXPERIMENT, *changes, "--device", "cpu", "--out", tmp_path / "own")
    table = command("compare", tmp_path / "merged", tmp_path / "own").stdout
    assert "python:torchvision.models.resnet.ResNet" in table, table
