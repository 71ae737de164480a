"""Batches calls: those made while one is in flight are sent together as the next one, so that many calls cost a few round trips.

A single call is not delayed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Batcher(Generic[ItemT, ResultT]):
    """Batches items for `run_batch`, which returns results in the order of its items, at most `max_batch_size` in one call."""

    def __init__(
        self, run_batch: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]], max_batch_size: int
    ) -> None:
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._pending: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: ItemT) -> ResultT:
        """Return the result for `item`. A ServiceUnavailable of `run_batch` is raised for the waiting items as well."""
        result: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._pending.append((item, result))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_pending())
        return await result

    async def aclose(self) -> None:
        """Cancel the call in flight."""
        await cancel_and_wait(self._task)

    async def _run_pending(self) -> None:
        batch: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[: self._max_batch_size], self._pending[self._max_batch_size :]
                results = await self._run_batch([item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        except ServiceUnavailable as error:
            # The waiting items would wait for another timeout of a Redis that does not respond.
            self._fail_pending(batch, error.detail)
        except BaseException:
            self._fail_pending(batch, "the batched call failed")
            raise

    def _fail_pending(self, in_flight: Sequence[tuple[ItemT, asyncio.Future[ResultT]]], detail: str) -> None:
        waiting, self._pending = [*in_flight, *self._pending], []
        for _, future in waiting:
            if not future.done():
                future.set_exception(ServiceUnavailable(detail))
