"""The files store side by side in one run: tus beside @tus/server with its file store, hot ranges beside the cache over GridFS, and
a cold read beside `cat` through a pipe and nginx.

`.venv/bin/python -m tests.bench.files_store [--quick]`. All files are on the disk of the temporary folder (TMPDIR). Rounds take
turns.

What is synced when the client has its answer: ours syncs each batch of 2 MiB and the end of the file, its folder, and three
commits of SQLite; @tus/server syncs nothing. In the column `tus+fsync` the file and its folder are synced after its answer,
within the time. Needs nginx, wrk and curl; the Node contender needs npm and is left out, with a word, where there is none.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local import databases
from deploy.local.ports import HOST, free_ports
from services.common.store.files.database import SQLITE_FILENAME
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.bench.stream import NGINX, TOOLS, download_rate, ranges_per_second, run_nginx
from tests.bench.upload import PACKAGES, TUS_SERVER, TUS_SERVER_SCRIPT, time_upload, upload_with_tus
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.npm import NpmUnavailable, install_packages
from tests.support.process_stats import cpu_seconds
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
from tests.support.store_inspectors import FilesInspector, sqlite_query
from tests.support.waiting import eventually

TUS_FSYNC, GRIDFS, GRIDFS_AGAIN, CAT, SLOWER = "tus+fsync", "gridfs cache", "gridfs again", "cat", "slower one"
DATABASE = "bench_files"
TUS_ROW = "one file over tus"


@dataclass(frozen=True, slots=True)
class FilesStack:
    """The services on one files store."""

    upload: ServiceProcess
    stream: ServiceProcess
    inspector: FilesInspector
    env: dict[str, str]


@contextlib.contextmanager
def run_files_stack(folder: Path, redis: str) -> Iterator[FilesStack]:
    store = folder / "store"
    env = {
        "GRIDCAST_STORE": "files",
        "GRIDCAST_FILES_DIR": str(store),
        "GRIDCAST_REDIS_URL": redis,
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_GC_INTERVAL": "1",
    }
    with run_service("services.upload", folder, env) as upload, run_service("services.stream", folder, env) as stream:
        yield FilesStack(upload, stream, FilesInspector(store, sqlite_query(store / SQLITE_FILENAME)), env)


@contextlib.contextmanager
def run_tus_server(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """@tus/server: its URL, its process and the folder of its files. Raises NpmUnavailable."""
    modules = install_packages(folder / "node", PACKAGES)
    (modules / "server.mjs").write_text(TUS_SERVER_SCRIPT)
    files = modules / "files"
    files.mkdir()
    (port,) = free_ports(1)
    command = [shutil.which("node") or "node", str(modules / "server.mjs"), str(port), str(files)]
    with run_contender("tus-server", command, port, folder) as pid:
        yield f"http://{HOST}:{port}", pid, files


def sync_folder(folder: Path) -> None:
    """Sync all files of a folder, and the folder."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def measure_tus(folder: Path, stack: FilesStack, path: Path, rounds: int) -> Iterator[Measurement]:
    """MB/s and CPU of one upload; each begins when what was before is deleted and written out."""
    size = path.stat().st_size
    targets = [Target(1.0, TUS_FSYNC, is_minimum=True)]
    speeds, costs = Measurement(TUS_ROW, "MB/s", targets), Measurement(f"CPU of {TUS_ROW}", "ms/100MB")
    with run_tus_server(folder) as (url, pid, files):
        servers = {
            OURS: (stack.upload.url, stack.upload.pid),
            TUS_SERVER: (url, pid),
            TUS_FSYNC: (url, pid),
        }
        for number in range(-1, rounds):
            for who in _order(list(servers), number):
                base, server = servers[who]
                name, used = f"{number}.bin", cpu_seconds(server)
                took = time_upload(upload_with_tus, base, path, name)
                if who == TUS_FSYNC:
                    began = time.monotonic()
                    sync_folder(files)
                    took += time.monotonic() - began
                if number >= 0:  # the first round warms up
                    speeds.add(who, size / 1e6 / took)
                    costs.add(who, (cpu_seconds(server) - used) * 1000 / (size / 1e8))
                if who == OURS:
                    httpx.delete(f"{base}/file/stream?filename={name}").raise_for_status()
                    eventually(lambda: not stack.inspector.list_files(), 60)
                else:
                    for stored in files.iterdir():
                        stored.unlink()
                os.sync()
    yield from (speeds, costs)


def measure_ranges(
    stores: dict[str, dict[str, str]], nginx: tuple[str, int], size: int, seconds: float, rounds: int, folder: Path
) -> Iterator[Measurement]:
    """Hot ranges of two lengths, as requests per second and as the server's CPU per request.

    Two processes of one program differ by up to a tenth for as long as they live, by where their memory lies. So the services, one
    for each environment in `stores`, are new in each round, and are no forks: those of one process all have its addresses. GRIDFS
    and GRIDFS_AGAIN differ in nothing else: their ratios show what a difference between stores has to exceed. Contenders start and
    take turns in an order that changes with each round.
    """
    lengths = (("1 MiB", MIB), ("64 KiB", 64 * 1024))
    targets = [Target(1.0, GRIDFS, is_minimum=True)]
    rates = {name: Measurement(f"hot {name} ranges", "req/s", targets, paired=True) for name, _ in lengths}
    costs = {name: Measurement(f"CPU of a hot {name} range", "us", paired=True) for name, _ in lengths}
    for number in range(rounds):
        with contextlib.ExitStack() as services:
            contenders = {NGINX: nginx}
            for store in _order(list(stores), number):
                service = services.enter_context(run_service("services.stream", folder, stores[store], may_fork=False))
                contenders[store] = (f"{service.url}/file/stream?filename=", service.pid)
                download_rate(f"{contenders[store][0]}hot.webm")
            download_rate(f"{nginx[0]}hot.webm")
            for name, length in lengths:
                for who in _order([NGINX, *stores], number):
                    url, pid = contenders[who]
                    used = cpu_seconds(pid)
                    rate = ranges_per_second(f"{url}hot.webm", size, length, seconds, folder)
                    rates[name].add(who, rate)
                    costs[name].add(who, (cpu_seconds(pid) - used) / (rate * seconds) * 1e6)
    for figures in (*rates.values(), *costs.values()):
        for who in (OURS, GRIDFS_AGAIN):
            ratios = figures.round_ratios(who, GRIDFS)
            print(f"{figures.name}: {who} / {GRIDFS} in single rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    yield from rates.values()
    yield from costs.values()


def _order(contenders: list[str], number: int) -> list[str]:
    """The contenders in the order of round `number`: each begins as often as the others, in both directions."""
    first = number // 2 % len(contenders)
    order = contenders[first:] + contenders[:first]
    return order[::-1] if number % 2 else order


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file, which is synced, come from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def cat_rate(path: Path) -> float:
    """MB/s of `cat` into a pipe that another `cat` reads."""
    began = time.monotonic()
    with subprocess.Popen([shutil.which("cat") or "cat", str(path)], stdout=subprocess.PIPE) as source:
        command = [shutil.which("cat") or "cat"]
        subprocess.run(command, stdin=source.stdout, stdout=subprocess.DEVNULL, check=True, timeout=300)
    return path.stat().st_size / 1e6 / (time.monotonic() - began)


def measure_cold_reads(url: str, stored: Path, nginx: str, local: Path, rounds: int) -> Measurement:
    """One sequential read of a file that is neither in the page cache nor in the service's."""
    figures = Measurement("cold sequential read", "MB/s", [Target(0.9, SLOWER, is_minimum=True)])
    for _ in range(rounds):
        drop_from_page_cache(stored)
        figures.add(OURS, download_rate(f"{url}cold.webm"))
        drop_from_page_cache(local)
        figures.add(CAT, cat := cat_rate(local))
        drop_from_page_cache(local)
        figures.add(NGINX, static := download_rate(f"{nginx}cold.webm"))
        figures.add(SLOWER, min(cat, static))
    return figures


def measure(folder: Path, upload_mib: int, hot: int, cold: int, seconds: float, rounds: int) -> Iterator[Measurement]:
    """Run all measurements. The cold file is larger than the cache, so that reading it in order never finds a cached block."""
    paths = {"hot.webm": folder / "hot.webm", "cold.webm": folder / "cold.webm", "file.bin": folder / "file.bin"}
    for path, size in zip(paths.values(), (hot, cold, upload_mib * MIB), strict=True):
        with path.open("wb") as file:
            for _ in range(size // MIB):
                file.write(random.randbytes(MIB))
            os.fsync(file.fileno())
    with (
        run_server(folder / "redis", databases.redis_server) as redis,
        run_files_stack(folder, redis.url) as stack,
    ):
        try:
            yield from measure_tus(folder, stack, paths["file.bin"], rounds)
        except NpmUnavailable as error:
            print(f"without {TUS_SERVER}: {error}")
        for name in ("hot.webm", "cold.webm"):
            httpx.put(f"{stack.upload.url}/file/stream?filename={name}", content=read_pieces(paths[name]), timeout=600)
        (cold_file,) = (one for one in stack.inspector.list_files() if one.stat().st_size == cold)
        ours = f"{stack.stream.url}/file/stream?filename="
        with (
            run_server(folder / "mongod", small_mongod_program) as mongod,
            run_nginx(folder / "nginx", {name: paths[name] for name in ("hot.webm", "cold.webm")}) as static,
        ):
            env = storage_env(mongod, redis.url, DATABASE)
            with run_service("services.upload", folder, env) as upload:
                content = read_pieces(paths["hot.webm"])
                httpx.put(
                    f"{upload.url}/file/stream?filename=hot.webm", content=content, timeout=600
                ).raise_for_status()
            stores = {OURS: stack.env, GRIDFS: env, GRIDFS_AGAIN: env}
            yield from measure_ranges(stores, static, hot, seconds / 2, 2 * rounds - 1, folder)
            yield measure_cold_reads(ours, cold_file, static[0], paths["cold.webm"], rounds)


def read_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(MIB):
            yield piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    mib, hot, cold, seconds, rounds = (
        (64, 64 * MIB, 320 * MIB, 2.0, 2) if options.quick else (512, 128 * MIB, 768 * MIB, 8.0, 5)
    )
    for line in describe_machine(("nginx", "-v"), ("curl", "--version"), ("node", "--version")):
        print(line)
    print(f"files of {mib}, {hot // MIB} and {cold // MIB} MiB, {rounds} rounds")
    contenders = (OURS, TUS_SERVER, TUS_FSYNC, GRIDFS, GRIDFS_AGAIN, NGINX, CAT, SLOWER)
    with tempfile.TemporaryDirectory() as folder:
        for line in format_table(list(measure(Path(folder), mib, hot, cold, seconds, rounds)), contenders):
            print(line)


if __name__ == "__main__":
    main()
