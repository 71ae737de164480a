"""services.upload.progress: the reporter ends when the service does."""

import asyncio
from typing import Any

import pytest

from gridcast.publish import PublishResult
from services.upload.progress import ProgressReporter

pytestmark = pytest.mark.anyio


class CancellingPublisher:
    """Redis as a driver over Python 3.11's `asyncio.wait_for` shows it: a cancellation that comes with the reply is swallowed."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def send(self, *_: Any, **__: Any) -> PublishResult:
        self.asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not self.asked.is_set():
                raise
            self.asked.clear()
        return PublishResult("sent", "1", None)


async def test_empty_file_has_a_total() -> None:
    """Its length is known only at the end, and is 0."""
    told: list[dict[str, Any]] = []
    ended = asyncio.Event()

    class Recorder:
        async def send(self, _sid: str, _type: str, data: dict[str, Any], **_: Any) -> PublishResult:
            told.append(data)
            if data["state"] == "stored":
                ended.set()
            return PublishResult("sent", "1", None)

    push: Any = Recorder()
    progress = ProgressReporter(push).start("A" * 52, "n", None)
    progress.set_received(0, 0)
    progress.set_state("stored")
    async with asyncio.timeout(5):
        await ended.wait()
    assert (told[-1]["received"], told[-1]["total"]) == (0, 0)


async def test_reporter_ends_although_a_cancellation_is_swallowed() -> None:
    push: Any = CancellingPublisher()
    watchers = ProgressReporter(push)
    watchers.start("A" * 52, "n", 10)
    await push.asked.wait()
    async with asyncio.timeout(5):
        await watchers.aclose()
