"""services.common.server.timeouts: when each of them calls its owner, and when it does not."""

import asyncio
from collections.abc import Callable

import pytest

from services.common.server.timeouts import KeepAliveTimer, SendTimeout, Timeout, with_send_timeout

pytestmark = pytest.mark.anyio

TICK = 0.05


class Owner:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.called: list[float] = []
        self.began = self.loop.time()

    def call(self) -> None:
        self.called.append(self.loop.time() - self.began)


async def after(ticks: float) -> None:
    await asyncio.sleep(ticks * TICK)


async def test_a_timeout_expires_once() -> None:
    owner = Owner()
    timeout = Timeout(owner.loop, owner.call)
    timeout.start(TICK)
    timeout.start(100)  # goes on as it runs
    running_before_it_expires = timeout.running
    assert running_before_it_expires
    await after(4)
    assert len(owner.called) == 1
    assert not timeout.running
    timeout.start(TICK)
    timeout.stop()
    await after(3)
    assert len(owner.called) == 1


async def test_each_start_of_a_keep_alive_timer_begins_its_time_anew() -> None:
    owner = Owner()
    timer = KeepAliveTimer(owner.loop, 4 * TICK, owner.call)
    for _ in range(4):
        timer.start()
        await after(2)
    assert owner.called == []
    await after(5)
    assert len(owner.called) == 1
    timer.start()
    timer.stop()
    await after(6)
    assert len(owner.called) == 1


@pytest.mark.parametrize(
    ("waits", "ends"),
    [
        (lambda: [0] * 9, False),
        (lambda: [9, 8, 7, 6, 5, 4, 3, 2, 1], False),
        (lambda: [9, 9, 9, 9, 9, 9, 9, 9, 9], True),
        (lambda: [9, 8, 8, 8, 8, 8, 8, 8, 8], True),
        (lambda: [5, 9, 9, 9, 9, 9, 9, 9, 9], True),
    ],
    ids=["nothing waits", "a little is taken", "nothing is taken", "no more is taken", "more waits"],
)
async def test_a_send_timeout_is_between_two_writes(waits: Callable[[], list[int]], *, ends: bool) -> None:
    owner, left = Owner(), waits()
    timeout = SendTimeout(owner.loop, owner.call, lambda: left.pop(0) if len(left) > 1 else left[0])
    timeout.start(TICK)
    await after(4)
    timeout.stop()
    assert len(owner.called) == int(ends)


async def test_without_a_measure_it_is_a_deadline() -> None:
    owner = Owner()
    timeout = SendTimeout(owner.loop, owner.call)
    timeout.start(2 * TICK)
    await after(1)
    timeout.stop()
    await after(3)
    assert owner.called == []
    timeout.start(TICK)
    await after(3)
    assert len(owner.called) == 1


def test_a_class_with_another_send_timeout() -> None:
    class Connection:
        send_timeout = 1.0

    made = with_send_timeout(Connection, 5)
    assert issubclass(made, Connection)
    assert made.send_timeout == 5
    assert Connection.send_timeout == 1.0
