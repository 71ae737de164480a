"""services.upload.writer.checkpoints: few checkpoints for a fast client, the last one soon after it stops, none that is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from services.common.errors import Conflict
from services.common.store.upload_store import UploadHandle
from services.common.uploads.lease import Lease
from services.upload.writer.checkpoints import OffsetCheckpoint

pytestmark = pytest.mark.anyio
HANDLE = UploadHandle("id", None, 1, "")


class RecordingStore:
    """Notes offsets; each takes until `gate` is set."""

    lease_ttl = 60.0

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.error: Exception | None = None

    async def renew_lease(self, upload: UploadHandle) -> None:
        raise AssertionError(upload)

    async def release_lease(self, upload: UploadHandle) -> None:
        raise AssertionError(upload)

    async def set_offset(
        self, upload: UploadHandle, offset: int, tail: bytes, length: int | None, **_: bool
    ) -> datetime:
        assert (upload, tail, length) == (HANDLE, b"", 100)
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.offsets.append(offset)
        return datetime.now(UTC)


@asynccontextmanager
async def checkpoint_of(store: RecordingStore) -> AsyncIterator[OffsetCheckpoint]:
    lease = Lease(store, HANDLE, 0, lambda _: None)
    try:
        yield OffsetCheckpoint(store, lease, 0)  # type: ignore[arg-type]
    finally:
        await lease.stop_renewing()


async def test_of_many_in_a_moment_the_last_one_is_written() -> None:
    store = RecordingStore()
    async with checkpoint_of(store) as checkpoint, asyncio.timeout(10):
        for offset in range(1, 6):
            checkpoint.schedule(offset, 100)
            await asyncio.sleep(0)
        assert store.offsets == []
        assert checkpoint.pending is not None
        await asyncio.wait({checkpoint.pending})
        assert (store.offsets, checkpoint.durable_offset) == ([5], 5)


async def test_one_that_comes_while_another_is_written_follows_it() -> None:
    store = RecordingStore()
    async with checkpoint_of(store) as checkpoint, asyncio.timeout(10):
        store.gate.clear()
        checkpoint.schedule(1, 100)
        hurrying = asyncio.create_task(checkpoint.hurry())
        await store.begun.wait()
        checkpoint.schedule(2, 100)
        checkpoint.schedule(3, 100)
        store.gate.set()
        await hurrying
        await checkpoint.wait()
        assert store.offsets == [1, 3]
        checkpoint.schedule(4, 100)
        await checkpoint.wait()
        assert store.offsets == [1, 3, 4]


async def test_an_error_is_raised_by_the_next_call() -> None:
    store = RecordingStore()
    store.error = Conflict("overtaken")
    async with checkpoint_of(store) as checkpoint, asyncio.timeout(10):
        checkpoint.schedule(1, 100)
        with pytest.raises(Conflict):
            await checkpoint.wait()
        with pytest.raises(Conflict):
            checkpoint.schedule(2, 100)
        assert checkpoint.durable_offset == 0
