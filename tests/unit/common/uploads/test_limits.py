"""services.common.uploads.limits: the slots of clients; the minimum of free space applies to active uploads too."""

import asyncio
import math
from contextlib import ExitStack
from typing import Any

import pytest

from services.common.asgi import Message
from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable, TooManyRequests
from services.common.uploads.body import UploadBody
from services.common.uploads.limits import DiskSpaceMonitor, UploadLimiter

pytestmark = pytest.mark.anyio


class FillingVolume:
    """A volume that is filled by other files as well."""

    def __init__(self, free: int) -> None:
        self.left = free

    async def get_free_bytes(self) -> int:
        return self.left


async def receive_nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_active_uploads_are_aborted_below_the_free_space_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body without a stated length, or other files that grew meanwhile: 507 before the volume is full."""
    monkeypatch.setattr("services.common.uploads.limits.DISK_SPACE_POLL_SECONDS", 0.01)
    store: Any = FillingVolume(1000)
    limiter = UploadLimiter(max_uploads=1)
    disk_space = DiskSpaceMonitor(100, limiter.abort_all)
    body = UploadBody(receive_nothing, 0, 30.0)
    looking = asyncio.create_task(disk_space.run(store))
    with limiter.acquire_slot(body):
        disk_space.reserve(None)
        reading = asyncio.create_task(body.read())
        done, _ = await asyncio.wait({reading}, timeout=0.1)
        assert not done
        store.left = 99
        with pytest.raises(InsufficientStorage):
            async with asyncio.timeout(5):
                await reading
    looking.cancel()


class Holder:
    """A body with that rate."""

    def __init__(self, client: str, rate: float = 1.0) -> None:
        self.client = client
        self.average_rate = rate
        self.error: GridcastError | None = None

    def abort(self, error: GridcastError) -> None:
        self.error = error


def test_a_client_gets_half_of_the_slots_or_what_is_set() -> None:
    for most, per_client, allowed in ((4, 0, 2), (1, 0, 1), (5, 0, 2), (4, 3, 3)):
        limiter = UploadLimiter(most, per_client)
        with ExitStack() as held:
            for _ in range(allowed):
                held.enter_context(limiter.acquire_slot(Holder("a")))
            for _ in range(2):
                with pytest.raises((TooManyRequests, ServiceUnavailable)) as refused, limiter.acquire_slot(Holder("a")):
                    pass
                assert int(refused.value.headers["retry-after"]) > 0
        with limiter.acquire_slot(Holder("a")):
            pass


def test_the_slowest_upload_of_the_client_with_the_most_gives_way() -> None:
    limiter = UploadLimiter(4, 3)
    holders = [Holder("a", 300.0), Holder("a", 5.0), Holder("a", math.inf), Holder("b", 1.0)]
    with ExitStack() as held:
        for holder in holders:
            held.enter_context(limiter.acquire_slot(holder))
        held.enter_context(limiter.acquire_slot(Holder("c")))
        assert [holder.error is not None for holder in holders] == [False, True, False, False]
        assert isinstance(holders[1].error, TooManyRequests)
        # a has 2, b and c have 1: taking one from a would leave it with less than c would have.
        with pytest.raises(ServiceUnavailable), limiter.acquire_slot(Holder("c")):
            pass
        held.enter_context(limiter.acquire_slot(Holder("d")))
        assert holders[0].error is not None
        with pytest.raises(ServiceUnavailable), limiter.acquire_slot(Holder("e")):
            pass
    with limiter.acquire_slot(Holder("e")):
        pass


def test_an_upload_that_has_sent_everything_is_not_aborted() -> None:
    limiter = UploadLimiter(2, 2)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(limiter.acquire_slot(Holder("a", math.inf)))
        with pytest.raises(ServiceUnavailable):
            held.enter_context(limiter.acquire_slot(Holder("b")))
