"""Takes back what was begun, whatever interrupts it: a cancelled request, a store that is away. It knows no bytes and no HTTP."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from services.common.errors import ServiceUnavailable
from services.upload.limits import ShuttingDown

_background_tasks: set[asyncio.Task[None]] = set()


async def run_shielded(cleanup: Coroutine[Any, Any, None]) -> None:
    """Await `doing` even while being cancelled again: the chunks of nobody must not stay."""
    task = asyncio.create_task(cleanup)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


def is_store_unavailable(error: BaseException) -> bool:
    """Whether `error` says that the store is away, while this process goes on."""
    return isinstance(error, ServiceUnavailable) and not isinstance(error, ShuttingDown)


async def cleanup_after(error: BaseException, cleanup: Coroutine[Any, Any, None]) -> None:
    """Clean up after `error`; where the store is away, behind the answer's back, which must not wait for it twice."""
    if is_store_unavailable(error):
        task = asyncio.create_task(cleanup)
        _background_tasks.add(task)
        task.add_done_callback(_background_tasks.discard)
    else:
        await run_shielded(cleanup)
