"""The socket service with many sockets: P12, a stalled reader does not affect the others, and P15, connections held. Long."""

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import picows
import pytest

from gridcast.publish import Publisher
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import resident_memory
from tests.support.websocket_client import SocketReplicas, connect_stalled_reader, http_client, run_socket_replicas
from tests.support.websocket_load import SwarmClient, WebSocketSwarm

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def single_replica(tmp_path: Path) -> Iterator[SocketReplicas]:
    raise_open_file_limit(12_000)
    with run_socket_replicas(tmp_path, 1, GRIDCAST_HANDSHAKE_RATE="100000") as single:
        yield single


class TimedSwarm(WebSocketSwarm):
    """Records how long each broadcast took to each client."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent_at = 0.0
        self.latencies: list[float] = []

    def on_message(self) -> None:
        self.latencies.append(time.perf_counter() - self.sent_at)
        super().on_message()

    async def measure_broadcasts(self, push: Publisher, broadcasts: int) -> None:
        for number in range(broadcasts):
            self.sent_at = time.perf_counter()
            await push.broadcast("news", number)
            await self.wait_until_all_received()

    def take_p99_ms(self) -> float:
        """Return the delays in milliseconds and reset them."""
        taken, self.latencies = sorted(self.latencies), []
        return 1000 * taken[int(len(taken) * 0.99)]


async def test_one_stalled_reader_among_a_thousand(single_replica: SocketReplicas) -> None:
    """It is sent more than it reads, besides the broadcasts that all get. Rounds without it and with it alternate."""
    crowd = TimedSwarm(f"{single_replica[0].url}/ws")
    await crowd.connect_clients(1000)
    without: list[float] = []
    beside: list[float] = []
    gone: list[float] = []
    grown: list[float] = []
    async with Publisher.from_url(single_replica.redis.url, "/x") as push, http_client(single_replica[0]) as asking:

        async def known() -> set[str]:
            page = (await asking.get("/sockets?limit=1000")).json()
            rest = (await asking.get(f"/sockets?limit=1000&after={page['next']}")).json()
            return {seen["sid"] for seen in page["sockets"] + rest["sockets"] if seen["state"] == "online"}

        await crowd.measure_broadcasts(push, 100)
        crowd.latencies.clear()
        before = await known()
        for turn in range(1, 4):
            await crowd.measure_broadcasts(push, 100)
            without.append(crowd.take_p99_ms())
            held = most = resident_memory(single_replica[0].pid)
            slow = await asyncio.to_thread(connect_stalled_reader, single_replica[0].port)
            (sid,) = await known() - before
            began = time.monotonic()
            while single_replica[0].log.count('"close_code": 1013') < turn and time.monotonic() - began < 20:
                for _ in range(4):
                    await push.send(sid, "filler", "x" * 30_000)
                await crowd.measure_broadcasts(push, 1)
                most = max(most, resident_memory(single_replica[0].pid))
            gone.append(time.monotonic() - began)
            grown.append((most - held) / 2**20)
            beside.append(crowd.take_p99_ms())
            slow.close()
        await crowd.disconnect_all()
    print(
        f"99th percentile of a broadcast to 1,000: {', '.join(f'{ms:.1f}' for ms in without)} ms; beside a stopped reader "
        f"{', '.join(f'{ms:.1f}' for ms in beside)} ms; it is gone after {', '.join(f'{s:.1f}' for s in gone)} s; "
        f"memory {', '.join(f'{mib:+.1f}' for mib in grown)} MiB"
    )
    assert max(gone) < 15
    assert max(grown) < 4
    for alone, together in zip(without, beside, strict=True):
        assert together - alone < 10


@pytest.fixture
def gc_disabled() -> Iterator[None]:
    """Garbage collection is off meanwhile: with all that pytest has loaded it takes longer than what is measured."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_handshakes_with_5000_idle_sockets(single_replica: SocketReplicas, gc_disabled: None) -> None:
    crowd = WebSocketSwarm(f"{single_replica[0].url}/ws")
    held = resident_memory(single_replica[0].pid)
    await crowd.connect_clients(5000)
    each = (resident_memory(single_replica[0].pid) - held) / 5000 / 1024
    seconds: list[float] = []

    async def enter(at: float) -> None:
        await asyncio.sleep(at - time.perf_counter())
        await picows.ws_connect(lambda: SwarmClient(crowd), crowd.url)
        seconds.append(time.perf_counter() - at)

    began = time.perf_counter() + 0.1
    await asyncio.gather(*(enter(began + number / 200) for number in range(2000)))
    seconds.sort()
    print(
        f"{each:.1f} KiB for each of 5,000 idle sockets; beside them 200 handshakes a second: median "
        f"{1000 * seconds[1000]:.1f} ms, 99th percentile {1000 * seconds[1980]:.1f} ms"
    )
    await crowd.disconnect_all()
    assert each < 30
    assert seconds[1980] < 0.1
