"""Runs an experiment in shards as Ray tasks, the largest first, and merges them.

    pip install ray
    python examples/cluster/ray_driver.py EXPERIMENT --out OUT [--shards 8] [--cpus 1] [--gpus 0] [-- --device NAME --set POINTER=VALUE ...]

`--out` is on a file system that all nodes share, or in an object store (README.md); `dtta` and the experiment are there on every node. A shard
whose worker or node is lost is run again and goes on from its checkpoint (that of a run for an object store is in its scratch folder); one
whose exit code is 2 is not tried again. The same command goes on where it was stopped.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import ray

MISUSE, SKIPPED, AGAIN = 2, 3, 75


class TryAgain(Exception):
    """The run failed, by what may be another on the next try."""


class Refused(Exception):
    """The experiment or the call is wrong, and stays so."""


def with_parent():
    """What has Linux stop a child whose parent is gone, so that a killed worker leaves no run behind."""
    if sys.platform != "linux":
        return None
    prctl, PR_SET_PDEATHSIG = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def last_line(said):
    lines = said.strip().splitlines()
    return lines[-1] if lines else "nothing said"


# Ray counts lost workers and raised `TryAgain`s as tries.
@ray.remote(max_retries=8, retry_exceptions=[TryAgain])
def run(dtta, experiment, shard, out, options):
    command = [dtta, "run", experiment, "--shard", shard, "--out", out, *options]
    while True:
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=with_parent())
        try:
            _, said = child.communicate()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        if child.returncode in (0, SKIPPED):
            return shard
        if child.returncode != AGAIN:
            break
        # What a lost worker ran may still be writing its checkpoint there.
        time.sleep(1)
    reason = f"shard {shard}, exit code {child.returncode}: {last_line(said)}"
    raise (Refused if child.returncode == MISUSE else TryAgain)(reason)


def planned(dtta, experiment, shards, options):
    """The shards with what they take, the largest first."""
    command = [dtta, "plan", experiment, "--format", "json", *options]
    if shards:
        command += ["--shards", str(shards)]
    plan = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if plan.returncode:
        sys.exit(plan.returncode)
    plan = json.loads(plan.stdout)
    return sorted(plan["shards"], key=lambda shard: -shard["seconds"])


def main():
    own, options = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, options = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description="Runs an experiment in shards as Ray tasks.")
    parser.add_argument("experiment")
    parser.add_argument("--out", required=True)
    parser.add_argument("--shards", type=int, help="as many as there are units, if absent")
    parser.add_argument("--cpus", type=float, default=1, help="of each task")
    parser.add_argument("--gpus", type=float, default=0, help="of each task")
    parser.add_argument("--checkpoint-every", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--address", help="of a cluster; one on this machine, if absent")
    parser.add_argument("--dtta", default=os.environ.get("DTTA", "dtta"))
    arguments = parser.parse_args(own)

    experiment = os.path.abspath(arguments.experiment)
    # A place in an object store is what it is.
    out = arguments.out if "://" in arguments.out else os.path.abspath(arguments.out)
    dtta = os.path.abspath(arguments.dtta) if os.sep in arguments.dtta else arguments.dtta
    shards = planned(dtta, experiment, arguments.shards, options)
    ray.init(address=arguments.address)
    place = run.options(num_cpus=arguments.cpus, num_gpus=arguments.gpus)
    # By id, so that shards of another plan are never taken for these.
    parts = {shard["shard"]: os.path.join(out, "parts", shard["id"]) for shard in shards}
    options += ["--checkpoint-every", str(arguments.checkpoint_every)]
    waiting = [place.remote(dtta, experiment, shard, part, options) for shard, part in parts.items()]
    failed = []
    for done, task in enumerate(waiting, 1):
        try:
            print(f"[{done}/{len(parts)}] shard {ray.get(task)}", file=sys.stderr)
        except ray.exceptions.RayError as error:
            failed.append(error)
            print(f"[{done}/{len(parts)}] {error}", file=sys.stderr)
    ray.shutdown()
    if failed:
        refused = all(isinstance(getattr(error, "cause", None), Refused) for error in failed)
        return MISUSE if refused else 1
    return subprocess.run([dtta, "merge", *parts.values(), "--out", os.path.join(out, "whole")]).returncode


if __name__ == "__main__":
    sys.exit(main())
