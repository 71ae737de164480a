"""Cancels tasks and waits until they have ended."""

import asyncio
from typing import Any

RECANCEL_INTERVAL_SECONDS = 0.5


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks, repeatedly until they are done.

    One cancellation is not enough: `asyncio.wait_for` of Python 3.11, which drivers use, swallows a cancellation that arrives
    at the moment in which the awaited call completes. Exceptions of the tasks are not raised here.
    """
    running = {task for task in tasks if task is not None and not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=RECANCEL_INTERVAL_SECONDS)
