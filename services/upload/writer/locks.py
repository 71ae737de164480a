"""Who in this process writes which resumable upload: a newer request cuts the older one. And hashes of what was written."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import Conflict
from services.upload.body import UploadBody

PREEMPT_TIMEOUT_SECONDS = 5.0
"""How long a newer request waits for the older one's last write. After that the fence alone decides."""
MAX_HASH_STATES = 1024
"""So many unfinished uploads need not be read back when they end in the process where they began."""


@dataclass(slots=True)
class _LockHolder:
    body: UploadBody
    released: asyncio.Event = field(default_factory=asyncio.Event)


class UploadLocks:
    """The open requests by the address of their upload."""

    def __init__(self) -> None:
        self._holders: dict[str, _LockHolder] = {}
        self._hash_states: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    @asynccontextmanager
    async def exclusive(self, upload_id: str, body: UploadBody) -> AsyncIterator[None]:
        """Be the only writer in this process: the older request is cut, and has stopped when this begins."""
        older, writer = self._holders.get(upload_id), _LockHolder(body)
        self._holders[upload_id] = writer
        try:
            await _preempt(older)
            yield
        finally:
            writer.released.set()
            if self._holders.get(upload_id) is writer:
                del self._holders[upload_id]

    async def preempt(self, upload_id: str) -> None:
        """Return when nobody in this process writes it."""
        await _preempt(self._holders.get(upload_id))

    def put_hash_state(self, upload_id: str, hash_state: tuple[int, Any]) -> None:
        """Remember the hash of so many blocks."""
        self._hash_states[upload_id] = hash_state
        self._hash_states.move_to_end(upload_id)
        if len(self._hash_states) > MAX_HASH_STATES:
            self._hash_states.popitem(last=False)

    def pop_hash_state(self, upload_id: str, block_count: int) -> Any:
        """The hash of exactly that many blocks, if it was made here. It is given away: ask once."""
        known = self._hash_states.pop(upload_id, None)
        return known[1] if known is not None and known[0] == block_count else None


async def _preempt(holder: _LockHolder | None) -> None:
    if holder is not None:
        holder.body.abort(Conflict("this upload was taken over"))
        with suppress(TimeoutError):
            async with asyncio.timeout(PREEMPT_TIMEOUT_SECONDS):
                await holder.released.wait()
