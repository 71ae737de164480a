"""Waiting for something to become true, with a deadline: what tests use instead of a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T | None], timeout_seconds: float = 10.0, description: str = "") -> T:
    """The first true result of `check`. Fails after `within` seconds, with the last error or result."""
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
        time.sleep(0.02)
