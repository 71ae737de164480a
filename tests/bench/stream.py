"""Byte ranges side by side in one run: the stream service, nginx on a local file, and what a tutorial would write.

`.venv/bin/python -m tests.bench.stream [--quick]`. Each is one process, with its access log on except the tutorial's. Rounds take
turns (A B C A B C). Needs nginx, wrk and curl.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from deploy.local import databases
from deploy.local.ports import HOST, free_ports
from services.common.store.gridfs.mongo import open_mongo_database
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.media_library import MediaServices
from tests.support.process_stats import cpu_seconds
from tests.support.processes import run_service
from tests.support.sizes import MIB
from tests.support.store_inspectors import open_inspector

DATABASE = "bench_stream"
NGINX, TUTORIAL, DRIVER = "nginx", "tutorial", "driver"
TOOLS = ("nginx", "wrk", "curl")
CONNECTIONS = 16

# Tuned as well as we could: sendfile, no Nagle-like waiting (tcp_nopush makes small ranges 70 times slower over loopback), one
# worker as we have one, an access log as we have one.
NGINX_CONF = """
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
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

WRK_SCRIPT = """
local size, length = {size}, {length}
math.randomseed({seed})
function request()
  local first = math.random(0, size - length)
  return wrk.format("GET", nil, {{ ["Range"] = "bytes=" .. first .. "-" .. (first + length - 1) }})
end
"""


def ranges_per_second(url: str, size: int, length: int, seconds: float, folder: Path) -> float:
    """Requests per second that wrk counts for random ranges of `length` bytes."""
    script = folder / f"ranges-{length}.lua"
    script.write_text(WRK_SCRIPT.format(size=size, length=length, seed=random.randrange(1 << 30)))
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
    """MB/s of the driver's own find over the chunks of a file, in this process, without sending them."""

    async def read() -> float:
        mongo = open_mongo_database(uri, DATABASE)
        await mongo.ping()
        began, total = time.perf_counter(), 0
        async for chunk in mongo.collection("fs.chunks").find({"files_id": file}).sort("n", 1):
            total += len(chunk["data"])
        rate = total / (time.perf_counter() - began) / 1e6
        await mongo.aclose()
        return rate

    return asyncio.run(read())


@contextlib.contextmanager
def run_nginx(folder: Path, files: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Nginx on local files: its address and the pid of its worker."""
    (folder / "files").mkdir(parents=True)
    for name, path in files.items():
        (folder / "files" / name).symlink_to(path)
    (port,) = free_ports(1)
    configuration = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # else its worker may not enter the temporary folder
    configuration.write_text(user + NGINX_CONF.format(folder=folder, host=HOST, port=port))
    program = shutil.which("nginx") or ""
    command = [program, "-c", str(configuration), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    with run_contender(NGINX, command, port, folder) as pid:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        yield f"http://{HOST}:{port}/", int(children[0])


@contextlib.contextmanager
def run_tutorial(env: dict[str, str], folder: Path) -> Iterator[tuple[str, int]]:
    """The baseline under uvicorn, with its log off."""
    (port,) = free_ports(1)
    app = "tests.bench.baselines.stream_tutorial:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
    with run_contender(TUTORIAL, command, port, folder, env) as pid:
        yield f"http://{HOST}:{port}/file/stream?filename=", pid


def measure(folder: Path, hot: int, cold: int, seconds: float, rounds: int) -> list[Measurement]:
    """Run all measurements. The cold file is larger than the cache, so that reading it in order never finds a cached block."""
    paths = {"hot.webm": folder / "hot.webm", "cold.webm": folder / "cold.webm"}
    for path, size in zip(paths.values(), (hot, cold), strict=True):
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(random.randbytes(MIB))
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
        open_inspector(mongod.url, DATABASE) as inspector,
        run_service("services.stream", folder, env := storage_env(mongod, redis.url, DATABASE)) as stream,
        run_tutorial(env, folder) as simple,
        run_nginx(folder / "nginx", paths) as static,
    ):
        with run_service("services.upload", folder, env) as upload:
            library = MediaServices(upload, stream, inspector)
            identifiers = {name: library.put(name, path) for name, path in paths.items()}
        file_id = library.current_file_id(identifiers["cold.webm"])
        contenders = {OURS: (f"{stream.url}/file/stream?filename=", stream.pid), NGINX: static, TUTORIAL: simple}
        return [
            *measure_ranges(contenders, hot, seconds, rounds, folder),
            measure_downloads(contenders, lambda: driver_rate(mongod.url, file_id), rounds),
        ]


def measure_ranges(
    contenders: dict[str, tuple[str, int]], size: int, seconds: float, rounds: int, folder: Path
) -> Iterator[Measurement]:
    """Hot ranges of two lengths, as requests per second and as the server's CPU per request."""
    lengths = (("1 MiB", MIB, 1.0), ("64 KiB", 64 * 1024, 0.35))
    rates = {
        name: Measurement(f"hot {name} ranges", "req/s", [Target(least, NGINX, is_minimum=True)])
        for name, _, least in lengths
    }
    costs = {name: Measurement(f"CPU of a hot {name} range", "us") for name, _, _ in lengths}
    for who in (OURS, NGINX):
        download_rate(f"{contenders[who][0]}hot.webm")
    for _ in range(rounds):
        for name, length, _ in lengths:
            for who, (url, pid) in contenders.items():
                answer = httpx.get(f"{url}hot.webm", headers={"range": f"bytes=1-{length}"})
                if (answer.status_code, len(answer.content)) != (206, length):
                    raise RuntimeError(f"{who} sends no range")
                used = cpu_seconds(pid)
                rate = ranges_per_second(f"{url}hot.webm", size, length, seconds, folder)
                rates[name].add(who, rate)
                costs[name].add(who, (cpu_seconds(pid) - used) / (rate * seconds) * 1e6)
    yield from rates.values()
    yield from costs.values()


def measure_downloads(contenders: dict[str, tuple[str, int]], driver: Callable[[], float], rounds: int) -> Measurement:
    """One sequential download of a file that no cache holds, against the driver's own find in one process."""
    figures = Measurement("cold sequential read", "MB/s", [Target(0.8, DRIVER, is_minimum=True)])
    for _ in range(rounds):
        figures.add(OURS, download_rate(f"{contenders[OURS][0]}cold.webm"))
        figures.add(DRIVER, driver())
        figures.add(TUTORIAL, download_rate(f"{contenders[TUTORIAL][0]}cold.webm"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    hot, cold, seconds, rounds = (64 * MIB, 320 * MIB, 2.0, 2) if options.quick else (128 * MIB, 768 * MIB, 8.0, 5)
    for line in describe_machine(("nginx", "-v"), ("curl", "--version")):
        print(line)
    print(f"files of {hot // MIB} and {cold // MIB} MiB, {CONNECTIONS} connections, {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for line in format_table(measure(Path(folder), hot, cold, seconds, rounds), (OURS, NGINX, TUTORIAL, DRIVER)):
            print(line)


if __name__ == "__main__":
    main()
