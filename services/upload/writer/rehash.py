"""The hash of stored bytes that this process has not written itself: after a takeover they are read back before the commit.

SHA-256 runs in the process that writes, and its state is not stored. So whoever goes on where another process stopped has the bytes
in the store and no hash of them. This room knows the store's port, and not what is still to come: neither the bytes of the client
nor the batch in flight.
"""

import asyncio
import hashlib
import logging
from typing import Any

from services.common.errors import Gone
from services.common.store.media_reader import CorruptFile
from services.common.store.upload_store import UploadHandle, UploadStore

_log = logging.getLogger("gridcast.upload")


async def rehash_blocks(store: UploadStore, upload: UploadHandle, block_count: int) -> Any:
    """The sha256 of the first `blocks` blocks of an upload, to go on with; they must have landed.

    Whole or not at all: who tries again would take the hash of a part for it. Raises Conflict where another holds the upload, Gone
    where it is damaged. Blocks also go missing when another ends the upload meanwhile, so the hold is looked at first: damage is
    only said of what is ours.
    """
    whole = hashlib.sha256()
    try:
        async for block in store.iter_blocks(upload, block_count):
            await asyncio.to_thread(whole.update, block)
    except CorruptFile as error:
        await store.renew_lease(upload)
        _log.error("upload aborted: %s", error)  # the text says all
        raise Gone("the stored data of this upload is corrupt; start a new upload") from error
    return whole
