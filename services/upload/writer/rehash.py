"""What is known of bytes that are stored already: from memory where this process wrote them, otherwise by reading them again.

The SHA-256 and the media facts are computed by the process that writes, and their state is not stored. A process that resumes an
upload of another has the bytes in the store and neither of the two, and reads them before the commit.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict

from services.common.containers.facts import facts_json
from services.common.containers.scanner import FactsScanner
from services.common.errors import Gone
from services.common.store.errors import CorruptFile
from services.common.store.upload_store import BlockWriter, UploadHandle

MAX_CONTENT_STATES = 1024
"""Unfinished uploads whose state is kept in memory: they are not read again when they end in the process where they began."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Bytes that scanners hold for uploads that wait for a request. Beyond it a scanner drops its own, and the facts with them."""

_log = logging.getLogger("gridcast.upload")


class ContentState:
    """The SHA-256 and the media facts of the bytes so far. `finish` is called once all bytes were added."""

    def __init__(self) -> None:
        self.scanner = FactsScanner()
        self.media_facts_json: str | None = None
        self.is_finished = False
        self._hash = hashlib.sha256()

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self._hash.update(data)
        self.scanner.feed(data)

    def hexdigest(self) -> str:
        """The SHA-256 so far, in lower-case hex."""
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Set `media_facts_json`; it stays None where bytes were lost that the facts need."""
        if not self.is_finished:
            self.is_finished = True
            facts = self.scanner.finish()
            self.media_facts_json = None if self.scanner.is_lossy else facts_json(facts)


class ContentStateCache:
    """Content states by upload id, bounded; the least recently stored one is dropped first."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, tuple[int, ContentState | None]] = OrderedDict()
        self._waiting_bytes = 0

    def put(self, upload_id: str, block_count: int, state: ContentState | None) -> None:
        """Keep the state of the first `block_count` blocks; None where it is not known. Nothing may be added to it meanwhile."""
        self._remove(upload_id)
        if state is not None:
            if self._waiting_bytes + state.scanner.held_bytes > MAX_WAITING_BYTES:
                state.scanner.drop_held_bytes()
            self._waiting_bytes += state.scanner.held_bytes
        self._states[upload_id] = block_count, state
        if len(self._states) > MAX_CONTENT_STATES:
            self._remove(next(iter(self._states)))

    def pop(self, upload_id: str, block_count: int) -> ContentState | None:
        """Remove and return the state of exactly that many blocks, None where it is not known."""
        known_count, state = self._remove(upload_id)
        return state if known_count == block_count else None

    def _remove(self, upload_id: str) -> tuple[int, ContentState | None]:
        block_count, state = self._states.pop(upload_id, (0, None))
        if state is not None:
            self._waiting_bytes -= state.scanner.held_bytes
        return block_count, state


async def rehash_blocks(store: BlockWriter, upload: UploadHandle, block_count: int) -> ContentState:
    """Compute SHA-256 and media facts of the first `block_count` blocks, which must be stored completely, to continue with.

    Either of all blocks or not at all: a later attempt would take the hash of a part for it. Raises Conflict where another writer
    holds the upload, Gone where it is damaged. Blocks are also missing when another writer terminates the upload meanwhile, so the
    lease is checked first: only an upload that is still held is reported as damaged.
    """
    state = ContentState()
    try:
        async for block in store.iter_blocks(upload, block_count):
            await asyncio.to_thread(state.update, block)
    except CorruptFile as error:
        await store.renew_lease(upload)
        _log.error("upload aborted: %s", error)  # the message is complete without a traceback
        raise Gone("the stored data of this upload is corrupt; start a new upload") from error
    return state
