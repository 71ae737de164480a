"""Calls that come while one is under way wait for its end and then go as one: a storm of them costs a few round trips.

It knows what is asked and answered as little as whom it asks. Alone, a call waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Batcher(Generic[ItemT, ResultT]):
    """`ask` answers several questions in their order, at most `most` in one call."""

    def __init__(
        self, run_batch: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]], max_batch_size: int
    ) -> None:
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._pending: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: ItemT) -> ResultT:
        """The answer. Unavailable where `ask` raises that, also for who only waited for their turn behind it."""
        answered: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._pending.append((item, answered))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_pending())
        return await answered

    async def aclose(self) -> None:
        """Ask no more."""
        await cancel_and_wait(self._task)

    async def _run_pending(self) -> None:
        asked: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        try:
            while self._pending:
                asked, self._pending = self._pending[: self._max_batch_size], self._pending[self._max_batch_size :]
                answers = await self._run_batch([question for question, _ in asked])
                for (_, answered), answer in zip(asked, answers, strict=True):
                    if not answered.done():
                        answered.set_result(answer)
        except ServiceUnavailable as error:
            # Whoever waits behind a Redis that does not answer would wait as long again.
            self._fail_pending(asked, error.detail)
        except BaseException:
            self._fail_pending(asked, "the batched call failed")
            raise

    def _fail_pending(self, in_flight: Sequence[tuple[ItemT, asyncio.Future[ResultT]]], detail: str) -> None:
        waiting, self._pending = [*in_flight, *self._pending], []
        for _, answered in waiting:
            if not answered.done():
                answered.set_exception(ServiceUnavailable(detail))
