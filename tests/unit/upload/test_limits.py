"""services.upload.limits: the minimum of free space applies to active uploads too."""

import asyncio
from typing import Any

import pytest

from services.common.asgi import Message
from services.common.errors import InsufficientStorage
from services.upload.body import UploadBody
from services.upload.limits import DiskSpaceMonitor, UploadLimiter

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
    monkeypatch.setattr("services.upload.limits.DISK_SPACE_POLL_SECONDS", 0.01)
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
