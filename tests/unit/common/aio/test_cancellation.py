"""services.common.aio.cancellation: a task ends although it swallows cancellations."""

import asyncio

import pytest

from services.common.aio.cancellation import cancel_and_wait

pytestmark = pytest.mark.anyio


async def test_task_that_swallows_cancellation_is_ended() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    async def failing() -> None:
        raise ValueError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing()), None]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel_and_wait(*tasks)
    assert swallowed == 3
    assert isinstance(tasks[1].exception() if tasks[1] else None, ValueError)


async def test_cancelling_no_task() -> None:
    await cancel_and_wait()
    await cancel_and_wait(None)
