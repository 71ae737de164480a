"""Takes back what was begun, whatever interrupts it: a cancelled request, a store that is away. It knows no bytes and no HTTP."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from services.common.errors import Unavailable
from services.upload.limits import Stopping

_behind: set[asyncio.Task[None]] = set()


async def to_its_end(doing: Coroutine[Any, Any, None]) -> None:
    """Await `doing` even while being cancelled again: the chunks of nobody must not stay."""
    task = asyncio.create_task(doing)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


def is_away(error: BaseException) -> bool:
    """Whether `error` says that the store is away, while this process goes on."""
    return isinstance(error, Unavailable) and not isinstance(error, Stopping)


async def cleaned(error: BaseException, doing: Coroutine[Any, Any, None]) -> None:
    """Clean up after `error`; where the store is away, behind the answer's back, which must not wait for it twice."""
    if is_away(error):
        task = asyncio.create_task(doing)
        _behind.add(task)
        task.add_done_callback(_behind.discard)
    else:
        await to_its_end(doing)
