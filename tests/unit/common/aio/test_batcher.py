"""services.common.aio.batcher: which calls form a batch, and what an error does to their callers."""

import asyncio
from collections.abc import Sequence

import pytest

from services.common.aio.batcher import Batcher
from services.common.errors import ServiceUnavailable

pytestmark = pytest.mark.anyio


class RecordingBatch:
    """Returns ten times each argument, once `release` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, questions: Sequence[int]) -> list[int]:
        self.calls.append(list(questions))
        self.started.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return [10 * question for question in questions]


async def test_calls_made_during_a_batch_form_the_next_batch() -> None:
    asked = RecordingBatch()
    together: Batcher[int, int] = Batcher(asked, 3)
    first = asyncio.create_task(together(1))
    await asked.started.wait()
    others = [asyncio.create_task(together(number)) for number in (2, 3, 4, 5, 6)]
    await asyncio.sleep(0)
    assert asked.calls == [[1]], "the others wait for the first"
    asked.release.set()
    assert await asyncio.gather(first, *others) == [10, 20, 30, 40, 50, 60]
    assert asked.calls == [[1], [2, 3, 4], [5, 6]]
    assert await together(7) == 70


async def test_cancelled_caller_does_not_cancel_the_others() -> None:
    asked = RecordingBatch()
    together: Batcher[int, int] = Batcher(asked, 3)
    first = asyncio.create_task(together(1))
    await asked.started.wait()
    second, third = asyncio.create_task(together(2)), asyncio.create_task(together(3))
    await asyncio.sleep(0)
    for one in (first, second):
        one.cancel()
    asked.release.set()
    assert await third == 30
    assert first.cancelled()
    assert second.cancelled()


@pytest.mark.parametrize("fault", [ServiceUnavailable("away"), ServiceUnavailable("slow", retry_after=7)])
async def test_error_is_raised_to_all_waiters(fault: ServiceUnavailable) -> None:
    """Also calls that are still queued: while Redis hangs no caller waits for two timeouts."""
    asked = RecordingBatch()
    asked.error = fault
    together: Batcher[int, int] = Batcher(asked, 1)
    first = asyncio.create_task(together(1))
    await asked.started.wait()
    second = asyncio.create_task(together(2))
    await asyncio.sleep(0)
    asked.release.set()
    for one in (first, second):
        with pytest.raises(ServiceUnavailable, match=fault.detail):
            await one
    assert asked.calls == [[1]]
    asked.error = None
    assert await together(3) == 30


async def test_close_leaves_no_waiter_pending() -> None:
    asked = RecordingBatch()
    together: Batcher[int, int] = Batcher(asked, 1)
    waiting = [asyncio.create_task(together(number)) for number in (1, 2)]
    await asked.started.wait()
    await together.aclose()
    for one in waiting:
        with pytest.raises(ServiceUnavailable):
            await one
