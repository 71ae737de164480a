"""What a stream service holds for live streams: requests that wait, viewers that do not read, memory."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.hls_rules import check_playlist
from tests.support.live_replicas import live_writer, prepare_store
from tests.support.live_writer import LiveWriter
from tests.support.process_stats import anonymous_memory
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio

DATABASE = "test_stream_live_bounds"
PARKED = 1000


@dataclass(frozen=True)
class Services:
    """One with the bounds that it has by default, and one with small ones."""

    wide: ServiceProcess
    narrow: ServiceProcess


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("live_bounds")
    prepare_store(mongod, DATABASE)
    env = storage_env(mongod, redis_server.url, DATABASE, GRIDCAST_SEND_TIMEOUT="2", GRIDCAST_LOG_LEVEL="info")
    small = {"GRIDCAST_LIVE_WAITING": "5", "GRIDCAST_LIVE_WAITING_PER_STREAM": "3", "GRIDCAST_LIVE_STREAMS": "2"}
    with (
        run_service("services.stream", logs, env) as wide,
        run_service("services.stream", logs, {**env, **small}) as narrow,
    ):
        yield Services(wide, narrow)


@pytest.fixture
async def writer(mongod: ServerProcess, redis_server: ServerProcess) -> AsyncIterator[LiveWriter]:
    async with live_writer(mongod, redis_server.url, DATABASE, target=6) as writer:
        await writer.add_segments(4)
        yield writer


class Viewer:
    """A connection that asks for one thing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def ask(cls, service: ServiceProcess, path: str, *, limit: int = 1 << 16) -> "Viewer":
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=limit)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()
        return cls(reader, writer)

    async def read(self) -> tuple[int, bytes, float]:
        """Status, body, and when its last byte was there."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        body = await self._reader.readexactly(int(fields[b"content-length"]))
        return int(head.split(b" ", 2)[1]), body, time.perf_counter()

    async def reset(self) -> None:
        """Be gone. A connection that is only closed may still read: it is answered within the time of its wait."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def waiting(service: ServiceProcess, path: str) -> bool:
    """Whether no place is left for another request that waits."""
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
        try:
            return (await http.get(path, timeout=0.5)).status_code == 503
        except httpx.ReadTimeout:
            return False


async def test_a_thousand_requests_wait_in_little_memory_and_are_woken_together(
    services: Services, writer: LiveWriter
) -> None:
    """They are all answered by the same list, within a second of the moment in which its segment is there."""
    service, path = services.wide, f"{writer.path}/media.m3u8?_HLS_msn=4"
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
        assert (await http.get(f"{writer.path}/media.m3u8?_HLS_msn=3")).status_code == 200
    first = [await Viewer.ask(service, f"{writer.path}/media.m3u8") for _ in range(100)]  # what any connection takes
    for viewer in first:
        assert (await viewer.read())[0] == 200
    before = anonymous_memory(service.pid)
    viewers = [await Viewer.ask(service, path) for _ in range(PARKED)]
    answers = [asyncio.create_task(viewer.read()) for viewer in viewers]
    await asyncio.sleep(0.2)
    assert not any(answer.done() for answer in answers)
    grown = anonymous_memory(service.pid) - before
    began = time.perf_counter()
    await writer.add_segments(1)
    results = await asyncio.gather(*answers)
    assert {status for status, _, _ in results} == {200}
    (body,) = {body for _, body, _ in results}
    assert len(check_playlist(body.decode()).entries) == 5
    assert grown < PARKED * 48 * 1024, f"{grown / PARKED / 1024:.1f} KiB for each"
    assert max(at for _, _, at in results) - began < 5, "the bench has the figures; here the machine is shared"
    for viewer in [*first, *viewers]:
        await viewer.close()


async def test_requests_that_wait_are_bounded_and_those_that_have_gone_free_their_places(
    services: Services, writer: LiveWriter, mongod: ServerProcess, redis_server: ServerProcess
) -> None:
    service, path = services.narrow, f"{writer.path}/media.m3u8?_HLS_msn=4"
    viewers = [await Viewer.ask(service, path) for _ in range(3)]
    await eventually_async(lambda: waiting(service, path))
    async with live_writer(mongod, redis_server.url, DATABASE, target=6) as other:
        await other.add_segments(4)
        other_path = f"{other.path}/media.m3u8?_HLS_msn=4"
        more = [await Viewer.ask(service, other_path) for _ in range(2)]
        await eventually_async(lambda: waiting(service, other_path))
        for viewer in [*viewers, *more]:
            await viewer.reset()
        late = await Viewer.ask(service, path)

        async def is_parked() -> bool:
            return not await waiting(service, path)

        await eventually_async(is_parked, 5)
        await late.reset()


async def test_a_viewer_that_stops_reading_is_cut_and_slows_nobody(services: Services, writer: LiveWriter) -> None:
    """Row 29: the send timeout is 2 s here."""
    service = services.wide
    await writer.add_segments(1, fill=4 * MIB)
    cut = service.log.count("send timeout after 2 s")
    stalled = await Viewer.ask(service, f"{writer.path}/0/4.m4s", limit=1024)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
        assert len((await http.get(f"{writer.path}/0/4.m4s")).content) == writer.segments[4].size

        async def is_cut() -> bool:
            answer = await http.get(f"{writer.path}/media.m3u8?_HLS_msn=4")
            assert answer.status_code == 200
            return service.log.count("send timeout after 2 s") > cut

        await eventually_async(is_cut, 15)
    await stalled.close()


async def test_segments_in_memory_are_few(services: Services, writer: LiveWriter) -> None:
    """Forty large segments pass; what is kept of them is the cache's bound, and no more."""
    service = services.wide
    await writer.add_segments(40, fill=2 * MIB)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
        await http.get(f"{writer.path}/media.m3u8?_HLS_msn=43")
        before = anonymous_memory(service.pid)
        for number in range(4, 44):
            assert len((await http.get(f"{writer.path}/0/{number}.m4s")).content) == writer.segments[number].size
    assert anonymous_memory(service.pid) - before < (64 + 48) * MIB
