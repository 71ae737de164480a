"""Live streams: from the last byte of a segment to the answers of the reloads that wait for it.

`.venv/bin/python -m tests.bench.live [--quick]`. Live and stream service are one process each with its access log on. The server's
share begins with the last byte that a publisher sends to the live service as an endless body. Where many wait, it begins at the
store, whose own share of the time, writing the segment and its index, stands beside it. Viewers are connections of this process, so
that with thousands of them the last answer includes reading thousands of answers.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from deploy.local import databases
from tests.bench.live_viewers import Viewer as CountingViewer
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import make_stream
from tests.support.live_replicas import live_writer
from tests.support.live_writer import LiveWriter
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import anonymous_memory, cpu_seconds
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually

DATABASE = "bench_live"
STORE = "store alone"
SEGMENT_BYTES = 125_000
"""Of each of the two tracks: a segment of two seconds at 1 Mbit/s."""
CROWD = 10_000
CROWD_TARGET = 6
"""Seconds: of a stream with a longer target duration requests are held for longer, here until all wait."""
CROWDED = {"GRIDCAST_LIVE_WAITING_PER_STREAM": str(CROWD)}
UNPACED = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0"}


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


async def measure_share(live: ServiceProcess, stream: ServiceProcess, segments: int) -> list[Measurement]:
    """The server's share: last byte of a segment at the live service -> answer of a reload at the stream service."""
    p50 = Measurement("last byte at the live service -> answer, p50", "ms", (Target(30),))
    p99 = Measurement("last byte at the live service -> answer, p99", "ms", (Target(150),))
    client, times = make_stream(live), list[float]()
    _, body = await asyncio.open_connection("127.0.0.1", live.port)
    head = f"POST {client.made['media']} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    body.write(f"{head}Authorization: {client.auth['authorization']}\r\n\r\n".encode())

    def send(data: bytes) -> None:
        body.write(b"%x\r\n%s\r\n" % (len(data), data))

    send(init())
    viewer = await Viewer.connect(stream)
    for number in range(segments + 4):
        media = fragment(2 * number, 2, fill=SEGMENT_BYTES)
        send(media[:-1])
        await body.drain()
        if number < 4:  # a list that is long enough, and that the stream service knows
            send(media[-1:])
            await asyncio.to_thread(eventually, lambda count=number + 1: client.get()["segments"] == count)
            continue
        viewer.ask(f"/live/{client.id}/media.m3u8?_HLS_msn={number}&_HLS_skip=YES")
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        send(media[-1:])
        times.append((await viewer.read() - began) * 1000)
    viewer.close()
    body.close()
    figures = statistics.quantiles(times, n=100)
    p50.add(OURS, figures[49])
    p99.add(OURS, figures[98])
    return [p50, p99]


async def measure_crowd(writer: LiveWriter, service: ServiceProcess, count: int, rounds: int) -> Measurement:
    """As many wait for one segment, of connections that cost this process little."""
    last = Measurement(f"the same, {count:,} wait, last answer, p50", "ms", (Target(500),))
    loop = asyncio.get_running_loop()
    viewers = []
    for _ in range(count):
        _, viewer = await loop.create_connection(lambda: CountingViewer(service.port), "127.0.0.1", service.port)
        viewers.append(viewer)
    for _ in range(rounds):
        path = f"{writer.path}/media.m3u8?_HLS_msn={len(writer.segments)}&_HLS_skip=YES"
        answers = [asyncio.create_task(viewer.fetch(path)) for viewer in viewers]
        await asyncio.sleep(0.5 + count / 4000)
        if any(answer.done() for answer in answers):
            raise RuntimeError("an answer before its segment")
        began = time.perf_counter()
        await writer.add_segments(1, fill=SEGMENT_BYTES)
        last.add(STORE, (time.perf_counter() - began) * 1000)
        await asyncio.gather(*answers)
        last.add(OURS, (time.perf_counter() - began) * 1000)
    for viewer in viewers:
        viewer.close()
    return last


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
        run_service("services.live", folder, storage_env(mongod, redis.url, DATABASE, **UNPACED)) as live,
        run_service("services.stream", folder, storage_env(mongod, redis.url, DATABASE, **CROWDED)) as service,
    ):
        share = await measure_share(live, service, segments)
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
        async with live_writer(mongod, redis.url, DATABASE, target=CROWD_TARGET) as writer:
            await writer.add_segments(4, fill=SEGMENT_BYTES)
            crowd = await measure_crowd(writer, service, CROWD, max(3, segments // 20))
    return [*share, p50, p99, first, last, crowd, cpu, memory]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the segments")
    options = parser.parse_args()
    raise_open_file_limit(CROWD + 2048)
    for line in describe_machine():
        print(line)
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measured = runner.run(measure(Path(folder), 20 if options.quick else 200))
        for line in format_table(measured, (OURS, STORE)):
            print(line)


if __name__ == "__main__":
    main()
