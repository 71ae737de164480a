"""Many who want the same at the same time (services.common.aio.singleflight)."""

import asyncio

import pytest

from services.common.aio.singleflight import SingleFlight

pytestmark = pytest.mark.anyio


class CountedWork:
    def __init__(self) -> None:
        self.completed = 0
        self.may_finish = asyncio.Event()

    async def __call__(self) -> int:
        await self.may_finish.wait()
        self.completed += 1
        if self.completed == 3:
            raise ValueError("the third time")
        return self.completed


async def test_it_is_done_once_for_all_who_wait_and_again_for_who_comes_later() -> None:
    work = CountedWork()
    once = SingleFlight(work)
    waiting = [asyncio.create_task(once()) for _ in range(5)]
    await asyncio.sleep(0)
    work.may_finish.set()
    assert await asyncio.gather(*waiting) == [1] * 5
    assert await once() == 2
    with pytest.raises(ValueError, match="third"):
        await once()
    assert await once() == 4


async def test_who_gives_up_does_not_end_it_for_the_others() -> None:
    work = CountedWork()
    once = SingleFlight(work)
    first, second = asyncio.create_task(once()), asyncio.create_task(once())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.may_finish.set()
    assert await second == 1
