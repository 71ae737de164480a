"""Byte ranges side by side in one run: the stream service, nginx on a local file, and what a tutorial would write.

`.venv/bin/python -m tests.bench.stream [--quick]`. Rounds take turns (A B C A B C), figures are medians, and what is worth
remembering are the ratios: absolute figures move with the machine. Needs nginx, wrk and curl.
"""

import argparse
import asyncio
import contextlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pymongo

from deploy.local import servers
from deploy.local.ports import HOST, free_ports
from services.common.mongo import open_mongo
from tests.launch import launched
from tests.servers import running, small_mongod
from tests.streaming import Library, environment
from tests.waiting import eventually

DATABASE = "bench_stream"
TOOLS = ("nginx", "wrk", "curl")
CONNECTIONS = 16
MIB = 1024 * 1024

# Tuned as well as we could: sendfile, no Nagle-like waiting (tcp_nopush makes small ranges 70 times slower over loopback), one
# worker as we have one, an access log as we have one.
NGINX = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  sendfile on; tcp_nopush off; tcp_nodelay on;
  keepalive_requests 100000000;
  open_file_cache max=16;
  types {{ video/webm webm; }}
  server {{ listen {host}:{port}; root {folder}/files; }}
}}
"""

LUA = """
local size, length = {size}, {length}
math.randomseed({seed})
function request()
  local first = math.random(0, size - length)
  return wrk.format("GET", nil, {{ ["Range"] = "bytes=" .. first .. "-" .. (first + length - 1) }})
end
"""


@dataclass
class Figures:
    """Rounds of one measurement by contender."""

    name: str
    unit: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, figure: float) -> None:
        self.rounds.setdefault(who, []).append(figure)

    def median(self, who: str) -> float:
        return statistics.median(self.rounds[who])

    def ratio(self, to: str) -> float:
        """Ours to theirs; more is better."""
        return self.median("gridcast") / self.median(to)

    def lines(self) -> Iterator[str]:
        for who, figures in self.rounds.items():
            ratio = "" if who == "gridcast" else f"  gridcast is {self.ratio(who):.2f} times that"
            yield f"{self.name:34} {who:16} {self.median(who):10.1f} {self.unit}{ratio}  ({len(figures)} rounds)"


@dataclass(frozen=True)
class Addresses:
    gridcast: str
    nginx: str
    tutorial: str


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if not shutil.which(tool)]


def ranges_per_second(url: str, size: int, length: int, seconds: float, folder: Path) -> float:
    """Requests a second that wrk counts for random ranges of `length` bytes."""
    script = folder / f"ranges-{length}.lua"
    script.write_text(LUA.format(size=size, length=length, seed=random.randrange(1 << 30)))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk on {url}: {said}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found
    return float(found[1])


def download_rate(url: str) -> float:
    """MB/s of one sequential download by curl."""
    command = ["curl", "-sS", "-f", "-o", "/dev/null", "-w", "%{speed_download}", url]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout) / 1e6


def driver_rate(uri: str, file: object) -> float:
    """MB/s of the driver's own find over the chunks of a file, in this process and with nothing sent to anyone."""

    async def read() -> float:
        mongo = open_mongo(uri, DATABASE)
        await mongo.ping()
        began, total = time.perf_counter(), 0
        async for chunk in mongo.collection("fs.chunks").find({"files_id": file}).sort("n", 1):
            total += len(chunk["data"])
        rate = total / (time.perf_counter() - began) / 1e6
        await mongo.aclose()
        return rate

    return asyncio.run(read())


@contextlib.contextmanager
def nginx(folder: Path, files: dict[str, Path]) -> Iterator[str]:
    """A server of static files, which these are."""
    (folder / "files").mkdir(parents=True)
    for name, path in files.items():
        (folder / "files" / name).symlink_to(path)
    folder.chmod(0o755)
    (port,) = free_ports(1)
    configuration = folder / "nginx.conf"
    user = "user root;\n" if shutil.os.geteuid() == 0 else ""  # type: ignore[attr-defined]
    configuration.write_text(user + NGINX.format(folder=folder, host=HOST, port=port))
    process = subprocess.Popen(
        ["nginx", "-c", str(configuration), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    )
    try:
        url = f"http://{HOST}:{port}"
        eventually(lambda: httpx.get(f"{url}/{next(iter(files))}", headers={"range": "bytes=0-0"}).status_code == 206)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def tutorial(env: dict[str, str], folder: Path) -> Iterator[str]:
    """The baseline under uvicorn, as quiet as it gets."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "tests.bench.baselines.stream_tutorial:app", "--port", str(port)]
    with (folder / "tutorial.log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-access-log"], env={**shutil.os.environ, **env}, stderr=log)  # type: ignore[attr-defined]
        try:
            url = f"http://{HOST}:{port}"
            eventually(lambda: httpx.get(f"{url}/docs").status_code == 200)
            yield url
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def contenders(folder: Path, hot: int, cold: int) -> Iterator[tuple[Addresses, Callable[[], float]]]:
    """All of them on the same two files, `hot.webm` and `cold.webm`, and the driver's own rate on the second."""
    paths = {"hot.webm": folder / "hot.webm", "cold.webm": folder / "cold.webm"}
    for path, size in zip(paths.values(), (hot, cold), strict=True):
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(random.randbytes(MIB))
    with (
        running(folder / "mongod", small_mongod) as mongod,
        running(folder / "redis", servers.redis_server) as redis,
        pymongo.MongoClient(mongod.uri) as client,
        launched("services.stream", folder, env := environment(mongod, redis.url, DATABASE)) as stream,
        tutorial(env, folder) as tutorial_url,
        nginx(folder / "nginx", paths) as nginx_url,
    ):
        with launched("services.upload", folder, env) as upload:
            library = Library(upload, stream, client[DATABASE])
            identifiers = {name: library.put(name, path) for name, path in paths.items()}
        file = library.file_of(identifiers["cold.webm"])
        addresses = Addresses(
            f"{stream.url}/file/stream?filename=", f"{nginx_url}/", f"{tutorial_url}/file/stream?filename="
        )
        yield addresses, lambda: driver_rate(mongod.uri, file)


def measure(*, quick: bool) -> list[Figures]:
    """All figures. The cold file is larger than the cache, so that reading it in order never finds a block there."""
    hot, cold, seconds, rounds = (64 * MIB, 320 * MIB, 2.0, 2) if quick else (128 * MIB, 768 * MIB, 8.0, 5)
    mib, small = Figures("hot 1 MiB ranges", "req/s"), Figures("hot 64 KiB ranges", "req/s")
    sequential = Figures("cold sequential read", "MB/s")
    with (
        tempfile.TemporaryDirectory() as name,
        contenders(folder := Path(name), hot, cold) as (addresses, driver),
    ):
        for who in ("gridcast", "nginx"):
            download_rate(f"{getattr(addresses, who)}hot.webm")
        for _ in range(rounds):
            for figures, length in ((mib, MIB), (small, 64 * 1024)):
                for who in ("gridcast", "nginx", "tutorial"):
                    url = f"{getattr(addresses, who)}hot.webm"
                    figures.add(who, ranges_per_second(url, hot, length, seconds, folder))
        for _ in range(rounds):
            sequential.add("gridcast", download_rate(f"{addresses.gridcast}cold.webm"))
            sequential.add("driver's find", driver())
            sequential.add("tutorial", download_rate(f"{addresses.tutorial}cold.webm"))
    return [mib, small, sequential]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if missing := missing_tools():
        sys.exit(f"needed and not found: {', '.join(missing)}")
    for figures in measure(quick=options.quick):
        for line in figures.lines():
            print(line)


if __name__ == "__main__":
    main()
