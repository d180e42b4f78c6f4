import signal
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import while_it_runs

import dtta


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "dtta", *map(str, arguments)], capture_output=True, text=True)


def test_the_wheel_has_the_command_with_its_exit_codes(command, tmp_path):
    assert run("--version").stdout == command("--version").stdout == f"dtta {dtta.__version__}\n"
    assert run("schema").stdout == command("schema").stdout
    refused = run("run", tmp_path / "none.json")
    assert refused.returncode == 2 and "none.json" in refused.stderr
    assert run().returncode == 2
    assert run("no-such-verb").returncode == 2


def test_the_command_is_a_script_of_the_environment(command, tmp_path):
    script = Path(sysconfig.get_path("scripts")) / ("dtta.exe" if sys.platform == "win32" else "dtta")

    def run(*arguments):
        return subprocess.run([script, *map(str, arguments)], capture_output=True, text=True)

    assert run("--version").stdout == command("--version").stdout
    assert run("run", tmp_path / "none.json").returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_the_script_stops_at_a_signal_as_the_command_does(examples, tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "dtta"
    changes = ["--set", "data.stream.samples=2", "--set", "adaptation.batch=1", "--set", "method.draws=60", "--device", "cpu"]
    for signal_, lines in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        arguments = ["run", examples / "fashion/single-sample.json", *changes, "--shard", "0/2", "--out", tmp_path / "part"]
        process = subprocess.Popen([script, *arguments], stderr=subprocess.PIPE, text=True)
        records = tmp_path / "part.unfinished/records.jsonl"
        while_it_runs(process, lambda: records.exists() and len(records.read_text().splitlines()) >= lines)
        process.send_signal(signal_)
        _, complaints = process.communicate()
        assert process.returncode == 75, complaints
        assert dtta.load(tmp_path / "part.unfinished").status == "interrupted"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads an ELF file")
def test_the_library_leaves_static_tls_to_those_who_need_it():
    """What is loaded later, as PyTorch's libgomp is by `import dtta, torch`, would find too little of it."""
    library = Path(dtta._dtta.__file__).read_bytes()
    DYNAMIC, DT_FLAGS, DF_STATIC_TLS = 6, 30, 0x10
    assert library[:5] == b"\x7fELF\x02"
    (offset,) = struct.unpack_from("<Q", library, 0x28)
    size, count = struct.unpack_from("<HH", library, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", library, offset + place * size) for place in range(count)]
    ((_, _, _, _, start, length),) = [section for section in sections if section[1] == DYNAMIC]
    entries = dict(struct.unpack_from("<QQ", library, start + place) for place in range(0, length, 16))
    assert entries and not entries.get(DT_FLAGS, 0) & DF_STATIC_TLS


def test_the_import_takes_a_third_of_a_second_at_the_most_and_no_other_package():
    program = "import time; t = time.perf_counter(); import dtta, sys; print(time.perf_counter() - t, 'torch' in sys.modules, 'numpy' in sys.modules)"

    def measured():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds, *others = done.stdout.split()
        assert others == ["False", "False"]
        return float(seconds)

    # The best of three: other processes do not count.
    assert min(measured() for _ in range(3)) <= 0.3
