import subprocess
import sys

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


def test_the_import_takes_a_third_of_a_second_at_the_most_and_no_other_package():
    program = "import time; t = time.perf_counter(); import dtta, sys; print(time.perf_counter() - t, 'torch' in sys.modules, 'numpy' in sys.modules)"

    def measured():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds, *others = done.stdout.split()
        assert others == ["False", "False"]
        return float(seconds)

    # The best of three: other processes do not count.
    assert min(measured() for _ in range(3)) <= 0.3
