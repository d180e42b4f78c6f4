"""Puts the shards of a run into a stand-in for S3: three processes at each shard at once, and one that is killed at random moments and started
again. Holds every place to the digests of its `unit.json`, and what is merged from there to the unbroken run.

    pip install "moto[server]" boto3
    cargo build --release --workspace --features dtta-cli/s3
    python tests/object_store.py [DTTA]
"""

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ["--device", "cpu", "--checkpoint-every", "0", "--set", "data.stream.samples=6", "--set", "method.draws=2"]
RACES, KILLS, SHARDS = 8, 20, 3


def main():
    dtta = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/dtta")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_ALLOW_HTTP="true")
    os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any", AWS_REGION="us-east-1")
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="runs")
    with tempfile.TemporaryDirectory() as work:

        def begin(shard, place, scratch):
            more = ["--shard", f"{shard}/{SHARDS}", "--out", f"s3://runs/{place}", "--scratch", f"{work}/{scratch}"]
            command = [dtta, "run", "examples/fashion/single-sample.json", *OPTIONS, *more]
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

        def ends(process, code=0):
            _, said = process.communicate()
            assert process.returncode == code, (process.returncode, said)
            return said

        def folders(place):
            """What is in a place, whose files have to be those that its `unit.json` names."""
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix=f"{place}/")
            keys = [item["Key"] for page in pages for item in page["Contents"]]
            read = {key: s3.get_object(Bucket="runs", Key=key)["Body"].read() for key in keys}
            unit = read[f"{place}/unit.json"]
            folder = f"{place}/{hashlib.sha256(unit).hexdigest()[:16]}"
            for name, file in json.loads(unit)["files"].items():
                key = f"{folder}/{name.replace('%', '%25')}"
                assert hashlib.sha256(read[key]).hexdigest() == file["sha256"], key
            return {key.split("/")[1] for key in keys} - {"unit.json"}

        late = 0
        for race in range(RACES):
            place = f"race-{race}"
            said = [ends(process) for process in [begin(race % SHARDS, place, f"{place}-{n}") for n in range(3)]]
            late += sum("finished before" in words for words in said)
            assert len(folders(place)) == 1
        print(f"{RACES} races of three processes, {late} late at the commit: one run in each place")

        begun = time.monotonic()
        ends(begin(0, "timed", "timed"))
        took = time.monotonic() - begun
        killed = uploading = 0
        for kill in range(KILLS):
            place = f"kill-{kill}"
            process = begin(kill % SHARDS, place, place)
            time.sleep(random.uniform(0.1, 1) * took)
            if process.poll() is None:
                process.kill()
                killed += 1
                uploading += Path(f"{work}/{place}/unit.json").exists()
            process.communicate()
            ends(begin(kill % SHARDS, place, place))
            # What was half uploaded was of the same run.
            assert len(folders(place)) == 1
        print(f"{killed} kills, {uploading} of them between the end of the run and its commit: whole")

        ends(begin(1, "race-0", "other"), 2)
        whole = [dtta, "run", "examples/fashion/single-sample.json", *OPTIONS, "--out", f"{work}/whole"]
        pieces = [f"s3://runs/{name}" for name in ("race-0", "kill-1", "race-2")]
        merge = [dtta, "merge", *pieces, "--device", "cpu", "--out"]
        for command in (whole, [*merge, f"{work}/merged"], [*merge, "s3://runs/merged"]):
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert len(folders("merged")) == 1

        def records(folder):
            lines = [json.loads(line) for line in Path(f"{work}/{folder}/records.jsonl").open()]
            return [{name: value for name, value in line.items() if name != "milliseconds"} for line in lines]

        assert records("merged") == records("whole")
        samples = [Path(f"{work}/{folder}/samples.bin").read_bytes() for folder in ("merged", "whole")]
        assert samples[0] == samples[1]
        print(f"{len(records('merged'))} records merged from there: equal")
    server.stop()


if __name__ == "__main__":
    main()
