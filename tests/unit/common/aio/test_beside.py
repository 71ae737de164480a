"""services.common.aio.beside: a blocking call in a thread beside a coroutine."""

import asyncio
import threading

import pytest

from services.common.aio.beside import run_beside

pytestmark = pytest.mark.anyio


async def test_both_run_at_the_same_time() -> None:
    called, worked = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def call() -> None:
        loop.call_soon_threadsafe(worked.set)
        assert called.wait(10)

    async def work() -> None:
        await asyncio.wait_for(worked.wait(), 10)
        called.set()

    await run_beside(call, work())


@pytest.mark.parametrize("failing", ["call", "work", "both"])
async def test_both_end_before_an_error_is_raised(failing: str) -> None:
    ended: list[str] = []

    def call() -> None:
        ended.append("call")
        if failing != "work":
            raise ValueError("call")

    async def work() -> None:
        await asyncio.sleep(0)
        ended.append("work")
        if failing != "call":
            raise ValueError("work")

    with pytest.raises(ValueError, match="work" if failing == "work" else "call"):
        await run_beside(call, work())
    assert sorted(ended) == ["call", "work"]
