"""Calls that come while one is under way wait for its end and then go as one: a storm of them costs a few round trips.

It knows what is asked and answered as little as whom it asks. Alone, a call waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.common.errors import Unavailable
from services.common.tasks import end

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """`ask` answers several questions in their order, at most `most` in one call."""

    def __init__(self, ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]], most: int) -> None:
        self._ask = ask
        self._most = most
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, question: Question) -> Answer:
        """The answer. Unavailable where `ask` raises that, also for who only waited for their turn behind it."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answered))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await answered

    async def aclose(self) -> None:
        """Ask no more."""
        await end(self._asking)

    async def _ask_all(self) -> None:
        asked: list[tuple[Question, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                answers = await self._ask([question for question, _ in asked])
                for (_, answered), answer in zip(asked, answers, strict=True):
                    if not answered.done():
                        answered.set_result(answer)
        except Unavailable as error:
            # Whoever waits behind a Redis that does not answer would wait as long again.
            self._fail(asked, error.detail)
        except BaseException:
            self._fail(asked, "a fault in what was asked together")
            raise

    def _fail(self, asked: Sequence[tuple[Question, asyncio.Future[Answer]]], detail: str) -> None:
        waiting, self._waiting = [*asked, *self._waiting], []
        for _, answered in waiting:
            if not answered.done():
                answered.set_exception(Unavailable(detail))
