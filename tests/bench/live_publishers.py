"""Publishers of live streams at one core: each sends 1 Mbit/s as one endless body, in its own time.

`.venv/bin/python -m tests.bench.live_publishers [--quick] [--publishers NUMBER] [--store gridfs|files]`. The live service is pinned
to the first core and has its access log on; MongoDB and the publishers have the other cores. A segment is late by what passes
between its last byte and the wake-up of its viewers, which is sent when it is durable and listed. "Behind" is how late its
publisher sent that byte. Needs taskset.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import redis.asyncio as redis_py
import uvloop

from deploy.local import databases
from services.common.live.wakeups import CHANNEL, decode_wake_up
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.support.databases import FilesFolder, ServerProcess, run_server, small_mongod_program, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import anonymous_memory, cpu_seconds
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
from tests.support.waiting import eventually_async

DATABASE = "bench_publishers"
TOOLS = ("taskset",)
PUBLISHERS = 100
SEGMENT_SECONDS = 2
FRAGMENT_SECONDS = 0.5
FRAGMENT_BYTES = 31_000
"""Of each of the two tracks: 1 Mbit/s."""
LATEST_MS = 500


class Publisher:
    """One stream and its body. `lates` and `behind` are in ms, by segment."""

    def __init__(self, stream_id: str, connection: asyncio.StreamWriter) -> None:
        self.id = stream_id
        self.lates: list[float] = []
        self.behind: list[float] = []
        self._connection = connection
        self._sent_at: list[float] = []

    @classmethod
    async def begin(cls, service: ServiceProcess, http: httpx.AsyncClient, number: int) -> "Publisher":
        made = (await http.post("/live", json={"filename": f"{number}.mp4"})).raise_for_status().json()
        _, connection = await asyncio.open_connection("127.0.0.1", service.port)
        head = f"POST {made['media']} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        connection.write(f"{head}Authorization: Bearer {made['publish_token']}\r\n\r\n".encode())
        publisher = cls(made["id"], connection)
        publisher._send(init())
        return publisher

    async def publish(self, begin: float, seconds: float) -> None:
        """Send from a time of the clock on; each fragment when its last frame would have been encoded."""
        for number in range(round(seconds / FRAGMENT_SECONDS)):
            due = begin + (number + 1) * FRAGMENT_SECONDS
            media = fragment(number * FRAGMENT_SECONDS, FRAGMENT_SECONDS, key=not number % 4, fill=FRAGMENT_BYTES)
            await asyncio.sleep(due - time.perf_counter())
            self._send(media)
            if not (number + 1) * FRAGMENT_SECONDS % SEGMENT_SECONDS:
                self._sent_at.append(time.perf_counter())
                self.behind.append((self._sent_at[-1] - due) * 1000)
            await self._connection.drain()

    def hear(self, last_segment: int) -> None:
        """Note that segments up to this one are listed."""
        now = time.perf_counter()
        while len(self.lates) <= last_segment and len(self.lates) < len(self._sent_at):
            self.lates.append((now - self._sent_at[len(self.lates)]) * 1000)

    def close(self) -> None:
        self._connection.close()

    def _send(self, data: bytes) -> None:
        self._connection.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextlib.asynccontextmanager
async def hearing(url: str, publishers: dict[str, Publisher]) -> AsyncIterator[None]:
    """Let publishers hear the wake-ups of their viewers."""
    client = redis_py.Redis.from_url(url, protocol=2)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(CHANNEL)

    async def hear() -> None:
        async for message in pubsub.listen():
            wake_up = decode_wake_up(message["data"])
            if wake_up is not None and wake_up.stream_id in publishers:
                publishers[wake_up.stream_id].hear(wake_up.last_segment)

    task = asyncio.create_task(hear())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        await client.aclose()


@contextlib.contextmanager
def run_store(folder: Path, store: str) -> Iterator[ServerProcess]:
    """A new store."""
    if store == "files":
        (folder / "files").mkdir()
        yield FilesFolder(folder / "files")
    else:
        with run_server(folder / "mongod", small_mongod_program) as mongod:
            yield mongod


async def measure(folder: Path, store: str, count: int, seconds: float) -> list[Measurement]:
    """Run everything."""
    names = ("p50", "p99", "latest")
    lates = [
        Measurement(f"a segment, {count} publishers, {name}", "ms", [Target(LATEST_MS)] if name == "latest" else ())
        for name in names
    ]
    behind = Measurement("the same, behind at its publisher, latest", "ms")
    cpu = Measurement(f"CPU of one core, {count} publishers", "%")
    memory = Measurement("memory of a publisher", "MiB")
    with (
        run_store(folder, store) as server,
        run_server(folder / "redis", databases.redis_server) as redis,
        run_service(
            "services.live",
            folder,
            storage_env(server, redis.url, DATABASE, GRIDCAST_LIVE_MAX_PUBLISHERS=str(count)),
            wrapper=(shutil.which("taskset") or "", "-c", "0"),
        ) as service,
    ):
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:
            await http.get("/livez")
            rest = anonymous_memory(service.pid)
            publishers = [await Publisher.begin(service, http, number) for number in range(count)]
        async with hearing(redis.url, {publisher.id: publisher for publisher in publishers}):
            spent, began = cpu_seconds(service.pid), time.perf_counter() + 0.5
            # At different times: that is how they begin.
            phases = [began + SEGMENT_SECONDS * number / count for number in range(count)]
            await asyncio.gather(*(one.publish(phase, seconds) for one, phase in zip(publishers, phases, strict=True)))
            cpu.add(OURS, 100 * (cpu_seconds(service.pid) - spent) / (time.perf_counter() - began))
            memory.add(OURS, (anonymous_memory(service.pid) - rest) / count / MIB)
            segments = round(seconds / SEGMENT_SECONDS)
            await eventually_async(lambda: all(len(publisher.lates) == segments for publisher in publishers), 30)
        for publisher in publishers:
            publisher.close()
    figures = [late for publisher in publishers for late in publisher.lates]
    print(f"{len(figures):,} segments of {count} publishers")
    found = (statistics.median(figures), statistics.quantiles(figures, n=100)[98], max(figures))
    for measurement, figure in zip(lates, found, strict=True):
        measurement.add(OURS, figure)
    behind.add(OURS, max(one for publisher in publishers for one in publisher.behind))
    return [*lates, behind, cpu, memory]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="eight seconds in place of a minute")
    parser.add_argument("--publishers", type=int, default=PUBLISHERS, metavar="NUMBER")
    parser.add_argument("--store", default="gridfs", choices=["gridfs", "files"])
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    raise_open_file_limit(4096)
    for line in describe_machine():
        print(line)
    print(f"store {options.store}")
    if cores := os.sched_getaffinity(0) - {0}:
        os.sched_setaffinity(0, cores)  # and of all that this process starts
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measured = runner.run(measure(Path(folder), options.store, options.publishers, 8.0 if options.quick else 60.0))
    for line in format_table(measured, (OURS,)):
        print(line)


if __name__ == "__main__":
    main()
