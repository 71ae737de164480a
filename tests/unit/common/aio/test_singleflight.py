"""services.common.aio.singleflight: concurrent callers share one call."""

import asyncio
import gc

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


async def test_concurrent_callers_share_one_call_and_later_callers_start_another() -> None:
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


async def test_cancelled_caller_does_not_cancel_the_shared_call() -> None:
    work = CountedWork()
    once = SingleFlight(work)
    first, second = asyncio.create_task(once()), asyncio.create_task(once())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    work.may_finish.set()
    assert await second == 1


async def test_exception_that_no_caller_waits_for_is_not_reported_by_asyncio() -> None:
    work = CountedWork()
    work.completed = 2
    reported = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["message"]))
    caller = asyncio.create_task(SingleFlight(work)())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    work.may_finish.set()
    for _ in range(5):  # turns of the loop: the call goes on, ends, and its task is collected
        await asyncio.sleep(0)
    assert work.completed == 3
    gc.collect()
    assert not reported
