"""Live streams: from the last byte of a segment at the store to the answers of the reloads that wait for it.

`.venv/bin/python -m tests.bench.live [--quick]`. The stream service is one process with its access log on; the store's own share of
the time, writing the segment and its index, stands beside it. Viewers are connections of this process, so that with a thousand of
them the last answer includes reading a thousand answers.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from deploy.local import databases
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.live_replicas import live_writer
from tests.support.live_writer import LiveWriter
from tests.support.process_stats import anonymous_memory, cpu_seconds
from tests.support.processes import ServiceProcess, run_service

DATABASE = "bench_live"
STORE = "store alone"
SEGMENT_BYTES = 125_000
"""Of each of the two tracks: a segment of two seconds at 1 Mbit/s."""


class Viewer:
    """A connection that asks for the next list again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, service: ServiceProcess) -> "Viewer":
        return cls(*await asyncio.open_connection("127.0.0.1", service.port))

    def ask(self, path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
        self._writer.write(head.encode())

    async def read(self) -> float:
        """Return when the answer was complete."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        await self._reader.readexactly(int(fields[b"content-length"]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1"))
        return time.perf_counter()

    def close(self) -> None:
        self._writer.close()


async def one_segment(writer: LiveWriter, viewers: list[Viewer]) -> tuple[float, float, float]:
    """Seconds from the last byte to: the store has it, the first answer, the last answer."""
    path = f"{writer.path}/media.m3u8?_HLS_msn={len(writer.segments)}&_HLS_skip=YES"
    for viewer in viewers:
        viewer.ask(path)
    answers = [asyncio.create_task(viewer.read()) for viewer in viewers]
    await asyncio.sleep(0.3 + len(viewers) / 2000)
    began = time.perf_counter()
    await writer.add_segments(1, fill=SEGMENT_BYTES)
    stored = time.perf_counter()
    done = await asyncio.gather(*answers)
    return stored - began, min(done) - began, max(done) - began


async def measure(folder: Path, segments: int) -> list[Measurement]:
    """Run everything."""
    p50 = Measurement("last byte -> answer, one waits, p50", "ms", (Target(30),))
    p99 = Measurement("last byte -> answer, one waits, p99", "ms", (Target(150),))
    first = Measurement("the same, 1,000 wait, first answer, p50", "ms")
    last = Measurement("the same, 1,000 wait, last answer, p50", "ms", (Target(500),))
    memory = Measurement("memory of one that waits", "KiB")
    cpu = Measurement("CPU of waking 1,000", "ms")
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
        run_service("services.stream", folder, storage_env(mongod, redis.url, DATABASE)) as service,
    ):
        async with live_writer(mongod, redis.url, DATABASE) as writer:
            await writer.add_segments(4, fill=SEGMENT_BYTES)
            viewers = [await Viewer.connect(service)]
            viewers[0].ask(f"{writer.path}/media.m3u8?_HLS_msn=3")
            await viewers[0].read()
            times = [await one_segment(writer, viewers) for _ in range(segments)]
            for measurement, cut in ((p50, 50), (p99, 99)):
                for contender, column in ((OURS, 1), (STORE, 0)):
                    figures = statistics.quantiles((row[column] * 1000 for row in times), n=100)
                    measurement.add(contender, figures[cut - 1])
            viewers += [await Viewer.connect(service) for _ in range(999)]
            before = anonymous_memory(
                service.pid
            )  # with their connections, and before anything was freed that could be used again
            for viewer in viewers:
                viewer.ask(f"{writer.path}/media.m3u8?_HLS_msn={len(writer.segments)}")
            await asyncio.sleep(1)
            memory.add(OURS, (anonymous_memory(service.pid) - before) / len(viewers) / 1024)
            await writer.add_segments(1, fill=SEGMENT_BYTES)
            for viewer in viewers:
                await viewer.read()
            for _ in range(max(3, segments // 10)):
                spent = cpu_seconds(service.pid)
                stored, soonest, latest = await one_segment(writer, viewers)
                cpu.add(OURS, (cpu_seconds(service.pid) - spent) * 1000)
                first.add(OURS, soonest * 1000)
                first.add(STORE, stored * 1000)
                last.add(OURS, latest * 1000)
            for viewer in viewers:
                viewer.close()
    return [p50, p99, first, last, cpu, memory]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the segments")
    options = parser.parse_args()
    for line in describe_machine():
        print(line)
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(Path(folder), 20 if options.quick else 200))
        for line in format_table(measured, (OURS, STORE)):
            print(line)


if __name__ == "__main__":
    main()
