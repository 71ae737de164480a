"""Cleanup after an interrupted upload: a cancelled request, an unavailable store."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from services.common.errors import ServiceUnavailable
from services.common.uploads.limits import ShuttingDown


async def run_shielded(cleanup: Coroutine[Any, Any, None]) -> None:
    """Await `cleanup` even while being cancelled again: no blocks must be left behind."""
    task = asyncio.create_task(cleanup)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


def is_store_unavailable(error: BaseException) -> bool:
    """Whether `error` says that the store is unavailable, and not that this process is shutting down."""
    return isinstance(error, ServiceUnavailable) and not isinstance(error, ShuttingDown)


class CleanupRunner:
    """Runs cleanups, in the background where an answer must not wait for them. Holds the background tasks of one application."""

    def __init__(self) -> None:
        self._background_tasks: set[asyncio.Task[None]] = set()

    async def run_after(self, error: BaseException, cleanup: Coroutine[Any, Any, None]) -> None:
        """Run `cleanup` after `error`: in the background where the store is unavailable, since the answer waited for it already."""
        if is_store_unavailable(error):
            task = asyncio.create_task(cleanup)
            self._background_tasks.add(task)
            task.add_done_callback(self._background_tasks.discard)
        else:
            await run_shielded(cleanup)
