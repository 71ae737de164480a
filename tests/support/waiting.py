"""Waiting for something to become true, with a deadline: what tests use instead of a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], within: float = 10.0, saying: str = "") -> T:
    """The first true result of `check`. Fails after `within` seconds, with the last error or result."""
    deadline = time.monotonic() + within
    while True:
        problem: Exception | None = None
        try:
            if result := check():
                return result
            seen = repr(result)
        except Exception as error:  # noqa: BLE001 - whatever a check raises means "not yet"
            seen, problem = repr(error), error
        if time.monotonic() > deadline:
            raise AssertionError(f"{saying or 'not true'} within {within:g} s; last seen: {seen}") from problem
        time.sleep(0.02)
