"""Uploads side by side in one run: ours, @tus/server with its file store, Motor's bucket stream, and a tutorial's way.

`.venv/bin/python -m tests.bench.upload [--mib N --rounds R] [--quick]`. The same file over loopback by the same client, curl; one
process each, with its usual log. Ours, Motor's and the tutorial's store into the same mongod. Rounds take turns, and each upload
begins when the ones before are deleted and written out. Needs curl; the Node contender needs npm and is left out, with a word,
where there is none. Beside tus stands what that mongod takes from its driver alone, without HTTP or hash.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pymongo
from bson import ObjectId
from pymongo.write_concern import WriteConcern

from deploy.local import databases
from deploy.local.ports import HOST, free_ports
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.databases import run_server, small_mongod_program
from tests.support.npm import NpmUnavailable, install_packages
from tests.support.process_stats import cpu_seconds
from tests.support.processes import run_service
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.upload_client import OFFSET_CONTENT_TYPE, TUS_HEADERS, tus_metadata
from tests.support.waiting import eventually

TUS_SERVER, MOTOR, TUTORIAL, DRIVER = "@tus/server", "motor", "tutorial", "driver alone"
DRIVER_BLOCKS, DRIVER_FLIGHTS = 4, 4
"""Chunks per insert, and concurrent inserts: the fastest of (8, 1), (4, 2), (8, 2) and (4, 4)."""
PACKAGES = {"@tus/server": "2.4.5", "@tus/file-store": "2.1.1"}
DATABASE = "bench"
TUS_SERVER_SCRIPT = """
import { Server } from "@tus/server";
import { FileStore } from "@tus/file-store";
const [port, directory] = process.argv.slice(2);
const server = new Server({ path: "/file/tus", datastore: new FileStore({ directory }) });
server.listen({ host: "127.0.0.1", port: Number(port) });
"""

Upload = Callable[[str, Path, str], None]


def curl(url: str, *arguments: str) -> int:
    """One request; its status."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "600", *arguments, url]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=700).stdout)


def upload_with_tus(base: str, path: Path, name: str) -> None:
    """Creation, then all of the file in one PATCH."""
    head = {**TUS_HEADERS, "upload-length": str(path.stat().st_size), "upload-metadata": tus_metadata(filename=name)}
    created = httpx.post(f"{base}/file/tus", headers=head)
    created.raise_for_status()
    fields = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": "0", "expect": ""}
    options = [option for field, value in fields.items() for option in ("-H", f"{field}: {value}".rstrip())]
    status = curl(str(created.url.join(created.headers["location"])), "-X", "PATCH", "-T", str(path), *options)
    expect_status(status, 204)


def upload_as_body(base: str, path: Path, name: str) -> None:
    """PUT."""
    expect_status(curl(f"{base}/file/stream?filename={name}", "-H", "Expect:", "-T", str(path)), 201)


def upload_as_form(base: str, path: Path, name: str) -> None:
    """POST, as the tutorial does with curl."""
    expect_status(curl(f"{base}/file/upload", "-H", "Expect:", "-F", f"file=@{path};filename={name}"), 201)


def upload_with_driver(client: pymongo.MongoClient[dict[str, object]], path: Path) -> None:
    """Only journalled inserts of the chunks, several concurrently."""
    chunks = client[f"{DATABASE}_driver"].get_collection("fs.chunks", write_concern=WriteConcern(w="majority", j=True))
    chunks.create_index([("files_id", 1), ("n", 1)], unique=True)
    file, count = ObjectId(), -(-path.stat().st_size // CHUNK_SIZE)

    def insert(first: int) -> None:
        with path.open("rb") as source:
            source.seek(first * CHUNK_SIZE)
            numbers = range(first, min(first + DRIVER_BLOCKS, count))
            chunks.insert_many([{"files_id": file, "n": number, "data": source.read(CHUNK_SIZE)} for number in numbers])

    with ThreadPoolExecutor(DRIVER_FLIGHTS) as pool:
        list(pool.map(insert, range(0, count, DRIVER_BLOCKS)))


def expect_status(status: int, expected: int) -> None:
    if status != expected:
        raise RuntimeError(f"{status} instead of {expected}")


UPLOAD_METHODS: tuple[tuple[str, Upload, str, Target], ...] = (
    ("one file over tus", upload_with_tus, TUS_SERVER, Target(0.9, TUS_SERVER, is_minimum=True)),
    ("one file as a body", upload_as_body, MOTOR, Target(1.0, MOTOR, is_minimum=True)),
    ("one file as a form", upload_as_form, TUTORIAL, Target(1.0, TUTORIAL, is_minimum=True)),
)


@contextlib.contextmanager
def run_contenders(folder: Path, mongodb: str, redis: str) -> Iterator[dict[str, tuple[str, int]]]:
    """The URL and the process of each contender."""
    env = {
        "GRIDCAST_MONGODB_URI": mongodb,
        "GRIDCAST_MONGODB_DATABASE": DATABASE,
        "GRIDCAST_REDIS_URL": redis,
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_GC_INTERVAL": "1",
    }
    found: dict[str, tuple[str, int]] = {}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(run_service("services.upload", folder, env))
        found[OURS] = (ours.url, ours.pid)
        for who in (MOTOR, TUTORIAL):
            (port,) = free_ports(1)
            app = f"tests.bench.baselines.upload_{who}:app"
            command = [sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", str(port), "--http", "httptools"]
            own = {**env, "GRIDCAST_MONGODB_DATABASE": f"{DATABASE}_{who}"}
            found[who] = (f"http://{HOST}:{port}", stack.enter_context(run_contender(who, command, port, folder, own)))
        try:
            modules = install_packages(folder / "node", PACKAGES)
            (modules / "server.mjs").write_text(TUS_SERVER_SCRIPT)
            (modules / "files").mkdir()
            (port,) = free_ports(1)
            command = [shutil.which("node") or "node", str(modules / "server.mjs"), str(port), str(modules / "files")]
            pid = stack.enter_context(run_contender("tus-server", command, port, folder))
            found[TUS_SERVER] = (f"http://{HOST}:{port}", pid)
        except NpmUnavailable as error:
            print(f"without {TUS_SERVER}: {error}")
        yield found


def measure(folder: Path, mib: int, rounds: int) -> Iterator[Measurement]:
    path = folder / "file.bin"
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
        run_contenders(folder, mongod.url, redis.url) as found,
        pymongo.MongoClient[dict[str, object]](mongod.url) as client,
    ):

        def clean(who: str, name: str) -> None:
            """Remove the file, outside the measurement, so that each upload begins with the same disk."""
            if who == OURS:
                httpx.delete(f"{found[OURS][0]}/file/stream?filename={name}").raise_for_status()
            elif who == TUS_SERVER:
                for stored in (folder / "node" / "files").iterdir():
                    stored.unlink()
            else:
                client.drop_database(f"{DATABASE}_{'driver' if who == DRIVER else who}")
            # What one contender has left to delete or to flush would slow the next one.
            eventually(lambda: client[DATABASE]["fs.chunks"].find_one() is None, 60)
            client.admin.command("fsync")
            os.sync()

        for name, upload, other, bound in UPLOAD_METHODS:
            if other not in found:
                continue
            speeds = Measurement(name, "MB/s", [bound])
            costs = Measurement(f"CPU of {name}", "ms/100MB")
            for number in range(-1, rounds):
                for who in (OURS, other):
                    url, pid = found[who]
                    file_name = f"{other.strip('@').replace('/', '-')}-{number}.bin"
                    used, took = cpu_seconds(pid), time_upload(upload, url, path, file_name)
                    if number >= 0:  # the first round warms up
                        speeds.add(who, mib * MIB / 1e6 / took)
                        costs.add(who, (cpu_seconds(pid) - used) * 1000 / (mib * MIB / 1e8))
                    clean(who, file_name)
                if other == TUS_SERVER:
                    began = time.monotonic()
                    upload_with_driver(client, path)
                    if number >= 0:
                        speeds.add(DRIVER, mib * MIB / 1e6 / (time.monotonic() - began))
                    clean(DRIVER, "")
            yield from (speeds, costs)


def time_upload(upload: Upload, url: str, path: Path, name: str) -> float:
    began = os.times().elapsed
    upload(url, path, name)
    return os.times().elapsed - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if shutil.which("curl") is None:
        print("needed and not found: curl")
        return
    mib, rounds = (64, 3) if options.quick else (options.mib, options.rounds)
    for line in describe_machine(("curl", "--version"), ("node", "--version")):
        print(line)
    print(f"a file of {mib} MiB, {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for line in format_table(list(measure(Path(folder), mib, rounds)), (OURS, TUS_SERVER, MOTOR, TUTORIAL, DRIVER)):
            print(line)


if __name__ == "__main__":
    main()
