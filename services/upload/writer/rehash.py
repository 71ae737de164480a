"""The hash of bytes that are stored already: from memory where this process wrote them, otherwise by reading them again.

SHA-256 is computed by the process that writes, and its state is not stored. A process that resumes an upload of another has the
bytes in the store and no hash of them, and reads them before the commit.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from typing import Any, Protocol

from services.common.errors import Gone
from services.common.store.errors import CorruptFile
from services.common.store.upload_store import BlockWriter, UploadHandle

MAX_HASH_STATES = 1024
"""Unfinished uploads whose hash is kept in memory: they are not read again when they end in the process where they began."""

_log = logging.getLogger("gridcast.upload")


class HashState(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest so far, in lower-case hex."""

    def copy(self) -> Any:
        """An independent copy."""


class HashStateCache:
    """Hash states by upload id, bounded; the least recently stored one is dropped first."""

    def __init__(self) -> None:
        self._hash_states: OrderedDict[str, tuple[int, HashState | None]] = OrderedDict()

    def put(self, upload_id: str, block_count: int, hash_state: HashState | None) -> None:
        """Keep the hash of the first `block_count` blocks; None where it is not known."""
        self._hash_states[upload_id] = block_count, hash_state
        self._hash_states.move_to_end(upload_id)
        if len(self._hash_states) > MAX_HASH_STATES:
            self._hash_states.popitem(last=False)

    def pop(self, upload_id: str, block_count: int) -> HashState | None:
        """Remove and return the hash of exactly that many blocks, None where it is not known."""
        known_count, hash_state = self._hash_states.pop(upload_id, (0, None))
        return hash_state if known_count == block_count else None


async def rehash_blocks(store: BlockWriter, upload: UploadHandle, block_count: int) -> HashState:
    """Compute the SHA-256 of the first `block_count` blocks, which must be stored completely, as a state to continue with.

    Either of all blocks or not at all: a later attempt would take the hash of a part for it. Raises Conflict where another writer
    holds the upload, Gone where it is damaged. Blocks are also missing when another writer terminates the upload meanwhile, so the
    lease is checked first: only an upload that is still held is reported as damaged.
    """
    hash_state = hashlib.sha256()
    try:
        async for block in store.iter_blocks(upload, block_count):
            await asyncio.to_thread(hash_state.update, block)
    except CorruptFile as error:
        await store.renew_lease(upload)
        _log.error("upload aborted: %s", error)  # the message is complete without a traceback
        raise Gone("the stored data of this upload is corrupt; start a new upload") from error
    return hash_state
