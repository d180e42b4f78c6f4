"""What the tests share. `cargo xtask python` runs them with the command of the same build in `DTTA_COMMAND`."""

import importlib
import importlib.util
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def needs(*packages):
    """Skips a test, or a file's tests, where a package is missing, unless `DTTA_PYTHON_TORCH` says that it has to be there."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing and os.environ.get("DTTA_PYTHON_TORCH"):
        pytest.fail(f"DTTA_PYTHON_TORCH is set, and {', '.join(missing)} is not installed", pytrace=False)
    if missing:
        reason = f"{', '.join(missing)} is not installed; `cargo xtask python --torch` installs it"
        pytest.skip(reason, allow_module_level=True)


def needed(package):
    """A module, or the test is skipped as `needs` says."""
    needs(package)
    return importlib.import_module(package)


@pytest.fixture(scope="session")
def examples():
    return ROOT / "examples"


@pytest.fixture(scope="session")
def command():
    """Runs the command that cargo built."""
    program = os.environ.get("DTTA_COMMAND", ROOT / "target/release/dtta")
    if not Path(program).exists():
        pytest.fail(f"`{program}` is not there; `cargo xtask python` builds it", pytrace=False)

    def run(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True)

    run.program = program
    return run


def told(folder):
    """The lines of a run's records, without the time that each took."""
    lines = (Path(folder) / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["milliseconds"]
    return records


def resident():
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def while_it_runs(process, what):
    """Waits until something is so, while a process runs."""
    begun = time.monotonic()
    while not what():
        assert process.poll() is None, process.communicate()
        if time.monotonic() - begun > 300:
            process.kill()
            pytest.fail("it did not come to that in five minutes")
        time.sleep(0.01)


def expect_other_threads_go_on(work):
    """A lock that is held while `work` runs would leave a gap as long as it in what another thread does."""
    done, turns = threading.Event(), []

    def count():
        while not done.is_set():
            turns.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    begun = time.monotonic()
    try:
        work()
    finally:
        ended = time.monotonic()
        done.set()
        thread.join()
    during = [turn for turn in turns if begun < turn < ended]
    longest = max(b - a for a, b in zip([begun, *during], [*during, ended]))
    assert longest < 0.5 * (ended - begun), (longest, ended - begun)
