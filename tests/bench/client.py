"""Throughput of the command line against curl and sha256sum, which together do the same: transfer a file and know its digest.

    python -m tests.bench.client [--mib 512] [--rounds 5] [--quick] [--store gridfs|files]

Whole commands are timed, start included, one after the other in turn. What they leave on the server is removed between rounds.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.local.processes import PROJECT_ROOT
from gridcast import Client
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.sizes import MIB
from tests.support.stack import Stack, run_stack

CURL = "curl"
TARGET = Target(0.8, CURL, is_minimum=True)


def timed(command: Sequence[str], env: dict[str, str]) -> float:
    """The seconds of one command. Raises CalledProcessError."""
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(folder: Path, stack: Stack, mib: int, rounds: int) -> Iterator[Measurement]:
    """Uploads, then downloads, both contenders in each round."""
    source, target = folder / "source.bin", folder / "target.bin"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    env = {**os.environ, "GRIDCAST_URL": stack.url, "XDG_STATE_HOME": str(folder / "state"), "F": str(source)}
    env |= {"PYTHONPATH": f"{PROJECT_ROOT / 'clients/python/src'}", "T": str(target), "U": f"{stack.url}/files/bench"}
    gridcast = [sys.executable, "-m", "gridcast.cli"]
    uploads = Measurement("upload", "MiB/s", (TARGET,))
    downloads = Measurement("download", "MiB/s", (TARGET,))
    with Client(stack.url) as client:
        for number in range(rounds + 1):
            seconds = timed([*gridcast, "upload", "-q", str(source), "--to", f"bench/{number}-ours"], env)
            theirs = timed(["sh", "-ec", f"sha256sum $F; curl -sfS -T $F $U/{number}-curl"], env)
            if number:  # the first round warms up
                uploads.add(OURS, mib / seconds)
                uploads.add(CURL, mib / theirs)
            client.remove(f"bench/{number}-curl")
            if number:
                client.remove(f"bench/{number}-ours")
        for number in range(rounds + 1):
            seconds = timed([*gridcast, "download", "-q", "bench/0-ours", "-o", str(target)], env)
            target.unlink()
            theirs = timed(["sh", "-ec", "curl -sfS -o $T $U/0-ours; sha256sum $T"], env)
            target.unlink()
            if number:
                downloads.add(OURS, mib / seconds)
                downloads.add(CURL, mib / theirs)
    yield uploads
    yield downloads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--store", default="gridfs", choices=["gridfs", "files"])
    options = parser.parse_args()
    if shutil.which("curl") is None:
        print("needed and not found: curl")
        return
    mib, rounds = (128, 3) if options.quick else (options.mib, options.rounds)
    for line in describe_machine(("curl", "--version")):
        print(line)
    print(f"a file of {mib} MiB, {rounds} rounds, store {options.store}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with run_stack(folder / "data", "--store", options.store) as stack:
            for line in format_table(list(measure(folder, stack, mib, rounds)), (OURS, CURL)):
                print(line)


if __name__ == "__main__":
    main()
