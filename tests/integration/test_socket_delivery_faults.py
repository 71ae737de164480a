"""Numbered pushes to many sids, to a topic and to all while replicas and Redis are killed, and a checker over what every client
received.

The guarantee: an acknowledged push reaches its client once and in order, or the client was told at that position that events may be
missing.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gridcast.publish import PublishResult
from services.common.bus.publisher import EventPublisher
from services.common.errors import ServiceUnavailable
from tests.support.processes import ServiceProcess
from tests.support.waiting import eventually_async
from tests.support.websocket_client import WebSocketClient, run_socket_replicas

pytestmark = pytest.mark.anyio
TARGETS = ("sid", "topic", "all")
SeenEvent = tuple[str, int]


@dataclass
class ReconnectingBrowser:
    """A client that always reconnects. `log`: target and number of each event it received, and None where a gap was reported."""

    running_services: list[ServiceProcess]
    rng: random.Random
    log: list[SeenEvent | None] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    duplicates: int = 0
    reconnects: int = 0
    client: WebSocketClient | None = None
    service: ServiceProcess | None = None
    sid: str = ""

    async def run(self) -> None:
        while True:
            try:
                await self._connect_once()
            except (OSError, InvalidHandshake, TimeoutError, EOFError):
                await asyncio.sleep(self.rng.uniform(0.02, 0.2))

    async def _connect_once(self) -> None:
        service = self.rng.choice(self.running_services)
        if self.client is None:
            self.client = await WebSocketClient.connect(service, topics="a")
        else:
            self.client = await self.client.reconnect(service, topics="a")
            self.reconnects += 1
            if not self.client.first_frame["recovered"]:
                self.log.append(None)
        self.sid, self.service = self.client.sid, service
        try:
            while True:
                event = await self.client.receive_event(timeout_seconds=60)
                if event["type"] == "socket.resync":
                    self.log.append(None)
                elif event["id"] in self.ids:
                    self.duplicates += 1
                else:
                    self.ids.add(event["id"])
                    self.log.append((event["data"][0], event["data"][1]))
        except ConnectionClosed:
            return

    async def close(self) -> None:
        if self.client is not None:
            self.client.abort()
            await asyncio.sleep(0)

    def events_of(self, target: str) -> list[int | None]:
        """The numbers received for one target, and None where a gap was reported."""
        return [one and one[1] for one in self.log if one is None or one[0] == target]


async def push_numbers(push: Callable[[int], Awaitable[PublishResult]], count: int, pause: float) -> None:
    """Push each number until it is acknowledged; a push with an unknown outcome is repeated with its id."""
    for number in range(count):
        while True:
            with contextlib.suppress(ServiceUnavailable):
                if (await push(number)).status in {"sent", "queued"}:
                    break
            await asyncio.sleep(0.05)
        await asyncio.sleep(pause)


async def all_browsers(browsers: list[ReconnectingBrowser], condition: Callable[[ReconnectingBrowser], bool]) -> bool:
    return all(condition(browser) for browser in browsers)


def count_gaps(log: list[int | None], count: int) -> int:
    """Raise AssertionError where a number is missing without a reported gap. Returns the number of reported gaps."""
    expected = 0
    flagged = False
    for seen in log:
        if seen is None:
            flagged = True
            continue
        assert seen >= expected, f"{seen} after {expected - 1}: {log}"
        assert seen == expected or flagged, f"{expected} to {seen - 1} are missing, and nothing was said: {log}"
        expected = seen + 1
        flagged = False
    assert expected == count or flagged, f"{expected} to {count - 1} are missing at the end: {log}"
    return log.count(None)


def has_reached_end(browser: ReconnectingBrowser, count: int) -> bool:
    return all(browser.events_of(target)[-1:] in ([None], [count - 1]) for target in TARGETS)


@pytest.mark.parametrize(
    ("browsers", "count", "redis_kills", "replica_kills", "pause"),
    [
        (12, 150, 0, 0, 0.0),
        (12, 400, 0, 2, 0.01),
        (12, 600, 3, 1, 0.01),
        pytest.param(200, 500, 0, 5, 0.02, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
        pytest.param(200, 500, 20, 5, 0.02, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
async def test_every_gap_is_reported(
    tmp_path: Path, browsers: int, count: int, redis_kills: int, replica_kills: int, pause: float
) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(2**32)))
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    with run_socket_replicas(tmp_path, 3) as made:
        living = list(made.services)
        crowd = [ReconnectingBrowser(living, random.Random(chance.random())) for _ in range(browsers)]
        running = [asyncio.create_task(browser.run()) for browser in crowd]
        await eventually_async(lambda: all_browsers(crowd, lambda browser: bool(browser.sid)))
        async with EventPublisher.from_url(made.redis.url, "/test") as push:

            async def send_to_one(browser: ReconnectingBrowser, name: int, number: int) -> PublishResult:
                # To the sid that it has now: Redis may lose the session of a client whose replica is killed at the same time.
                return await push.send(browser.sid, "t", ["sid", number], id=f"{name}-{number}")

            ways: list[Callable[[int], Awaitable[PublishResult]]] = [
                lambda number: push.publish("a", "t", ["topic", number], id=f"a-{number}"),
                lambda number: push.broadcast("t", ["all", number], id=f"all-{number}"),
            ]
            for name, one in enumerate(crowd):
                ways.append(partial(send_to_one, one, name))
            pushes = [asyncio.create_task(push_numbers(way, count, pause)) for way in ways]
            faults = ["redis"] * redis_kills + ["replica"] * replica_kills
            chance.shuffle(faults)
            for fault in faults:
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                if fault == "redis":
                    made.redis.kill()
                    await asyncio.sleep(chance.uniform(0.0, 1.5))
                    await asyncio.to_thread(made.redis.start)
                else:
                    # One that holds a client: with three replicas and 12 clients, one in 130 holds none, and no client comes back.
                    held = [one for one in living if any(browser.service is one for browser in crowd)]
                    victim = chance.choice(held or living)
                    living.remove(victim)
                    victim.child.send_signal(signal.SIGKILL)
                    living.append(await asyncio.to_thread(made.start))
            await asyncio.gather(*pushes)
            # What was acknowledged last is still being delivered.
            await eventually_async(lambda: all_browsers(crowd, lambda browser: has_reached_end(browser, count)), 15)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for browser in crowd:
            await browser.close()
        said = sum(count_gaps(browser.events_of(target), count) for browser in crowd for target in TARGETS)
    returned = sum(browser.reconnects for browser in crowd)
    repeated = sum(browser.duplicates for browser in crowd)
    print(
        f"{len(ways) * count} pushes, {returned} returns, {said} times a gap was said, {repeated} repeats dropped by id"
    )
    if replica_kills:
        assert returned
    if not redis_kills:
        assert said == 0, "nothing was lost, and nothing is said"
