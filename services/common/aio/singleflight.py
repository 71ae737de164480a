"""Single-flight: concurrent callers share one execution of a function (as Go's singleflight)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Callers that come while the function runs wait for that run. A cancelled caller does not cancel it for the others."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._task: asyncio.Task[T] | None = None

    @property
    def running(self) -> bool:
        """Whether an execution is in progress, which the next caller would share."""
        return self._task is not None

    async def __call__(self) -> T:
        """Return the result of the function, or raise its exception."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._task)

    async def _run(self) -> T:
        try:
            return await self._function()
        finally:
            self._task = None


def _retrieve_exception(task: asyncio.Task[T]) -> None:
    """Where all callers were cancelled, no other code asks for the exception, and asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
