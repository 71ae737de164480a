"""Waits for a condition with a deadline, instead of a fixed sleep: `eventually` in threads, `eventually_async` in an event loop."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    check: Callable[[], T | None],
    timeout_seconds: float = 10.0,
    description: str = "",
    interval_seconds: float = 0.02,
) -> T:
    """Call `check` every `interval_seconds` and return its first true result; an exception counts as "not yet".

    Raises AssertionError after `timeout_seconds`, with `description` and the last result or error.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        problem: Exception | None = None
        try:
            if result := check():
                return result
            seen = repr(result)
        except Exception as error:  # noqa: BLE001 - whatever a check raises means "not yet"
            seen, problem = repr(error), error
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{description or 'not true'} within {timeout_seconds:g} s; last seen: {seen}"
            ) from problem
        time.sleep(interval_seconds)


async def eventually_async(check: Callable[[], object], timeout_seconds: float = 10.0) -> None:
    """Call `check`, a function or a coroutine function, every 20 ms until its result is true.

    Raises AssertionError after `timeout_seconds`. An exception of `check` is raised immediately.
    """
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while True:
        result = check()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < deadline, f"not true within {timeout_seconds:g} s"
        await asyncio.sleep(0.02)
