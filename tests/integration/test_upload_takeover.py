"""Takeover of an upload: the writer that held it ends with Conflict, and asyncio logs no exception as never retrieved."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest

from services.common.errors import Conflict
from services.common.media import MediaName
from services.common.store.upload_store import (
    Checkpoint,
    NewUpload,
    UploadHandle,
)
from services.upload.writer.upload_writer import BATCH_BLOCKS, UploadWriter
from tests.support.store_adapters import StoreUnderTest

pytestmark = pytest.mark.anyio
NAME = MediaName("", "n")


class OvertakenStore(StoreUnderTest):
    """A store in which another writer acquires the upload at one moment: at the end of a batch, or before a checkpoint of it."""

    moment = ""

    async def write_blocks(
        self,
        upload: UploadHandle,
        first_block: int,
        blocks: Sequence[bytes],
        hash_blocks: Callable[[], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        expires_at = await super().write_blocks(upload, first_block, blocks, hash_blocks, checkpoint)
        if self.moment == "batch":
            assert await self.acquire(upload.upload_id) is not None
        return expires_at

    async def set_offset(self, upload: UploadHandle, *args: Any, **options: Any) -> datetime:
        if self.moment == "checkpoint":
            assert await self.acquire(upload.upload_id) is not None
        return await super().set_offset(upload, *args, **options)


@pytest.mark.parametrize("ends", ["suspend", "abort", "checkpoint"])
@pytest.mark.parametrize("moment", ["batch", "checkpoint"])
async def test_takeover_leaves_no_unretrieved_exception(store_backend: Any, moment: str, ends: str) -> None:
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    store = OvertakenStore(store_backend)
    writer = UploadWriter(store, 100 * store.block_size)
    writer.checkpoint_batches = True
    await writer.create(NAME, NewUpload(50 * store.block_size, 60))
    store.moment = moment
    await writer.write(bytes(BATCH_BLOCKS * store.block_size))
    if ends == "abort":
        await writer.abort()
    else:
        if ends == "checkpoint":
            with pytest.raises(Conflict):
                await writer.checkpoint(keep_lease=False)
        await writer.suspend()
    del writer
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert reported == []
