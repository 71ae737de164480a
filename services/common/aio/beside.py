"""Runs a blocking call in a thread beside a coroutine."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def run_beside(call: Callable[[], object] | None, work: Coroutine[Any, Any, object]) -> None:
    """Run `call`, if there is one, in a thread while `work` runs.

    Waits for both, then raises what one of them has raised, the call first.
    """
    if call is None:
        await work
        return
    for result in await asyncio.gather(asyncio.to_thread(call), work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
