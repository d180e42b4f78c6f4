"""The recipes of `examples/cluster` that are in Python, with stand-ins for the engines."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, told

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


def wait_for(lines, records):
    begun = time.monotonic()
    while not records.exists() or len(records.read_text().splitlines()) < lines:
        assert time.monotonic() - begun < 300, f"no {lines} records came"
        time.sleep(0.01)


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
            wait_for(lines, tmp_path / f"out/{part}.unfinished/records.jsonl")
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
