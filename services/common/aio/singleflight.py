"""One piece of work for all who want its result at the same time. It knows not what the work is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Who calls while the work is under way waits for that. Who gives up waiting does not end it for the others."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._task: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The result. Raises what the work raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._task)

    async def _run(self) -> T:
        try:
            return await self._function()
        finally:
            self._task = None
