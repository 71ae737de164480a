"""Viewers of one live stream on one core: each reloads the list and fetches the newest segment every two seconds.

`.venv/bin/python -m tests.bench.live_viewers [--quick]`. The stream service is pinned to the first core and has its access log on;
so is nginx, which serves the same list and segment as files. MongoDB and the viewers have the other cores. Viewers come evenly
spread over the two seconds, as players do that have joined at different times. Needs nginx and taskset.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx
import uvloop

from deploy.local import databases
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.bench.stream import run_nginx
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.live_replicas import live_writer
from tests.support.live_writer import LiveWriter
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import cpu_seconds
from tests.support.processes import run_service

DATABASE = "bench_viewers"
NGINX = "nginx"
TOOLS = ("nginx", "taskset")
SEGMENT_SECONDS = 2
SEGMENT_BYTES = 125_000
"""Of each of the two tracks: a segment of two seconds at 1 Mbit/s."""
VIEWER_TIMEOUT = 60.0
WAKE_UP_SECONDS = 0.25
"""After which the service has heard of a segment."""

_buffer = memoryview(bytearray(256 * 1024))


class Viewer(asyncio.BufferedProtocol):
    """A connection that reads answers without keeping them."""

    def __init__(self, port: int) -> None:
        self._host = f"127.0.0.1:{port}"
        self._head = b""
        self._left = -1
        self._answered: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError())

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._left < 0:
            self._head += bytes(_buffer[:nbytes])
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
            self._head, self._left = head, int(fields[b"content-length"]) - len(rest)
        else:
            self._left -= nbytes
        if not self._left and self._answered is not None:
            self._answered.set_result(None)

    async def fetch(self, path: str) -> float:
        """Return the seconds until the answer is complete. Raises RuntimeError for another status than 200."""
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._head, self._left = b"", -1
        began = time.perf_counter()
        self._transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept-Encoding: gzip\r\n\r\n".encode("ascii")
        )
        await asyncio.wait_for(self._answered, VIEWER_TIMEOUT)
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._head.decode("latin-1"))
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def watch(viewer: Viewer, phase: float, until: float, paths: Callable[[], tuple[str, str]]) -> list[float]:
    """Watch until a time of the clock; return the seconds of each segment."""
    times = []
    while phase < until:
        await asyncio.sleep(phase - time.perf_counter())
        listing, segment = paths()
        await viewer.fetch(listing)
        times.append(await viewer.fetch(segment))
        phase += SEGMENT_SECONDS
    return times


async def audience(
    url: str, count: int, seconds: float, paths: Callable[[], tuple[str, str]]
) -> tuple[list[float], float]:
    """Run concurrent viewers. Returns the latency of each segment in ms, and the throughput in MB/s."""
    port = urlsplit(url).port or 0
    loop = asyncio.get_running_loop()
    viewers = []
    for _ in range(count):
        _, viewer = await loop.create_connection(lambda: Viewer(port), "127.0.0.1", port)
        viewers.append(viewer)
    began = time.perf_counter() + 0.5
    watching = [
        watch(viewer, began + SEGMENT_SECONDS * number / count, began + seconds, paths)
        for number, viewer in enumerate(viewers)
    ]
    try:
        times = [1000 * one for each in await asyncio.gather(*watching) for one in each]
    finally:
        for viewer in viewers:
            viewer.close()
    return times, len(times) * 2 * SEGMENT_BYTES / (time.perf_counter() - began) / 1e6


class Edge:
    """The newest segment of a stream that the service has heard of."""

    def __init__(self, writer: LiveWriter) -> None:
        self._writer = writer
        self._newest = len(writer.segments) - 1

    async def advance(self) -> None:
        """Add a segment."""
        await self._writer.add_segments(1, fill=SEGMENT_BYTES)
        await asyncio.sleep(WAKE_UP_SECONDS)
        self._newest = len(self._writer.segments) - 1

    def paths(self) -> tuple[str, str]:
        """The list, as an update, and the segment."""
        return f"{self._writer.path}/media.m3u8?_HLS_skip=YES", f"{self._writer.path}/0/{self._newest}.m4s"


@contextlib.asynccontextmanager
async def publishing(edge: Edge) -> AsyncIterator[None]:
    """Add a segment every two seconds."""

    async def publish() -> None:
        due = time.perf_counter()
        while True:
            due += SEGMENT_SECONDS
            await edge.advance()
            await asyncio.sleep(due - time.perf_counter())

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def measure(folder: Path, counts: Mapping[int, Sequence[Target]], seconds: float) -> list[Measurement]:
    """Run everything: for each count of viewers our service, then nginx."""
    measured = []
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
        run_service(
            "services.stream",
            folder,
            storage_env(mongod, redis.url, DATABASE),
            wrapper=(shutil.which("taskset") or "", "-c", "0"),
        ) as service,
    ):
        async with live_writer(mongod, redis.url, DATABASE) as writer:
            await writer.add_segments(4, fill=SEGMENT_BYTES)
            edge = Edge(writer)
            copies = {"list": folder / "media.m3u8", "segment": folder / "0.m4s"}
            async with httpx.AsyncClient(base_url=service.url) as http:
                for path, source in zip(copies.values(), edge.paths(), strict=True):
                    path.write_bytes((await http.get(source)).raise_for_status().content)
            with run_nginx(folder / "nginx", copies) as (url, pid):
                os.sched_setaffinity(pid, {0})
                for count, targets in counts.items():
                    p50 = Measurement(f"a segment, {count:,} viewers, p50", "ms")
                    p99 = Measurement(f"a segment, {count:,} viewers, p99", "ms", targets)
                    cpu = Measurement(f"CPU of one core, {count:,} viewers", "%")
                    for contender, base, process in ((OURS, service.url, service.pid), (NGINX, url, pid)):
                        paths = edge.paths if contender == OURS else (lambda: ("/list", "/segment"))
                        async with publishing(edge):
                            spent, began = cpu_seconds(process), time.perf_counter()
                            times, rate = await audience(base, count, seconds, paths)
                            spent = cpu_seconds(process) - spent
                        p50.add(contender, statistics.median(times))
                        p99.add(contender, statistics.quantiles(times, n=100)[98])
                        cpu.add(contender, 100 * spent / (time.perf_counter() - began))
                        print(f"{contender}: {count:,} viewers, {len(times):,} segments, {rate:.0f} MB/s")
                    measured += [p50, p99, cpu]
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    raise_open_file_limit(8192)
    for line in describe_machine(("nginx", "-v")):
        print(line)
    if cores := os.sched_getaffinity(0) - {0}:
        os.sched_setaffinity(0, cores)  # and of all that this process starts
    counts = {count: (Target(250),) for count in ((1000,) if options.quick else (1000, 2000))}
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measured = runner.run(measure(Path(folder), counts, 4.0 if options.quick else 30.0))
        for line in format_table(measured, (OURS, NGINX)):
            print(line)


if __name__ == "__main__":
    main()
