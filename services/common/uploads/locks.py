"""The locks of resumable uploads in this process: a newer request aborts the one that holds the lock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from services.common.errors import Conflict
from services.common.uploads.limits import Abortable

PREEMPT_TIMEOUT_SECONDS = 5.0
"""How long a newer request waits for the last write of the older one. After that the fencing token alone decides."""


@dataclass(slots=True)
class _LockHolder:
    body: Abortable
    released: asyncio.Event = field(default_factory=asyncio.Event)


class UploadLocks:
    """Locks by upload id."""

    def __init__(self) -> None:
        self._holders: dict[str, _LockHolder] = {}

    @asynccontextmanager
    async def exclusive(self, upload_id: str, body: Abortable) -> AsyncIterator[None]:
        """Hold the lock: the older holder's body is aborted, and that request has released the lock when this begins."""
        older, holder = self._holders.get(upload_id), _LockHolder(body)
        self._holders[upload_id] = holder
        try:
            await _preempt(older)
            yield
        finally:
            holder.released.set()
            if self._holders.get(upload_id) is holder:
                del self._holders[upload_id]

    def is_held(self, upload_id: str) -> bool:
        """Whether a request holds the lock."""
        return upload_id in self._holders

    async def preempt(self, upload_id: str) -> None:
        """Abort the holder and wait until the lock is released."""
        await _preempt(self._holders.get(upload_id))


async def _preempt(holder: _LockHolder | None) -> None:
    if holder is not None:
        holder.body.abort(Conflict("another request has acquired this upload"))
        with suppress(TimeoutError):
            async with asyncio.timeout(PREEMPT_TIMEOUT_SECONDS):
                await holder.released.wait()
