"""Runs an experiment in shards through submitit, on Slurm or on this machine, and merges them.

    pip install submitit
    python examples/cluster/submitit_run.py EXPERIMENT --out OUT --shards 8 [--partition gpu] [--local] [-- OPTIONS OF dtta run ...]

The same command goes on where it was stopped: finished shards end at once. `--out` is a folder that all nodes share, or a place in an object
store (README.md); then `--logs` is a shared folder for what submitit writes, `submitit` in the working folder if absent.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time

import submitit

AGAIN = 75
SKIPPED = 3


def located(out):
    """A folder wherever it is asked for; one in an object store is what it is."""
    return out if "://" in out else os.path.abspath(out)


class Shard:
    """One shard, as a job that submitit can interrupt and queue again."""

    def __init__(self, dtta, experiment, shard, out, options):
        self.command = [dtta, "run", experiment, "--shard", shard, "--out", out, *options]
        self.child = None

    def __call__(self):
        while True:
            # Slurm sends submitit's signal to all processes of the job. Whom it is not for, it would end: there it waits, blocked.
            blocked = (signal.SIGUSR1, signal.SIGUSR2)
            self.child = os.posix_spawnp(self.command[0], self.command, os.environ, setsigmask=blocked)
            code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
            # 75 and not asked by submitit, which does not come back here: another process had the folder, or someone stopped this one.
            if code != AGAIN:
                break
            time.sleep(5)
        if code not in (0, SKIPPED):
            raise RuntimeError(f"exit code {code}: {' '.join(self.command)}")
        return code

    def checkpoint(self):
        """Called by submitit before the time is over, and on preemption: the run makes a checkpoint, and the job is queued again.

        That is a signal's handler, in the middle of `__call__`, so it must need nothing that `__call__` may hold, such as the lock of a `Popen`
        that is waited for.
        """
        if self.child is not None:
            # It may have ended by itself, and been waited for.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.child, signal.SIGTERM)
                os.waitpid(self.child, 0)
        self.child = None
        return submitit.helpers.DelayedSubmission(self)


def main():
    own, options = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, options = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description="Runs an experiment in shards through submitit.")
    parser.add_argument("experiment")
    parser.add_argument("--out", required=True)
    parser.add_argument("--logs", help="of submitit, and its jobs; `submitit` in a folder `--out` if absent")
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--dtta", default=os.environ.get("DTTA", "dtta"))
    parser.add_argument("--partition")
    parser.add_argument("--minutes", type=int, default=240)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--local", action="store_true", help="processes on this machine in place of Slurm")
    arguments = parser.parse_args(own)

    experiment, out = os.path.abspath(arguments.experiment), located(arguments.out)
    logs = arguments.logs or ("submitit" if "://" in out else os.path.join(out, "submitit"))
    executor = submitit.AutoExecutor(folder=os.path.abspath(logs), cluster="local" if arguments.local else None)
    executor.update_parameters(
        name="dtta",
        timeout_min=arguments.minutes,
        cpus_per_task=arguments.cpus,
        gpus_per_node=arguments.gpus,
        **({"slurm_partition": arguments.partition} if arguments.partition and not arguments.local else {}),
    )
    count = arguments.shards
    parts = [os.path.join(out, f"{index}-of-{count}") for index in range(count)]
    with executor.batch():
        jobs = [
            executor.submit(Shard(arguments.dtta, experiment, f"{index}/{count}", part, options))
            for index, part in enumerate(parts)
        ]
    for job in jobs:
        job.result()
    return subprocess.run([arguments.dtta, "merge", *parts, "--out", os.path.join(out, "whole")]).returncode


if __name__ == "__main__":
    sys.exit(main())
