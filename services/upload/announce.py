"""Tells the world of a change: pushes an event that the store has noted, then lets the store forget it. It knows no HTTP.

The order makes it safe: a crash before the push leaves the note, and the event goes out later with the same id.
"""

import asyncio
import logging

from services.common.errors import GridcastError
from services.common.push import Push
from services.common.store.port import Announcement, UploadStore

PUSH_SECONDS = 2.0
"""How long an answer waits for Redis. What does not get through is pushed later."""

_log = logging.getLogger("gridcast.upload")


class Announcer:
    """Pushes what was committed."""

    def __init__(self, store: UploadStore, push: Push) -> None:
        self._store = store
        self._push = push
        self._forgetting: set[asyncio.Task[None]] = set()

    async def announce(self, announcement: Announcement) -> bool:
        """Drop cached metadata everywhere, then tell every socket. Never raises for a Redis that is away: the file is stored."""
        info = announcement.info
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                await self._push.invalidate(info.folder, info.filename)
                await self._push.broadcast(announcement.type, info.public(), id=announcement.id)
        except (GridcastError, TimeoutError) as error:
            _log.warning("%s of %s is pushed later: %s", announcement.type, info.id, error)
            return False
        # Nobody waits for this: an event that is pushed twice has the same id.
        task = asyncio.create_task(self._forget(announcement))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
        return True

    async def aclose(self) -> None:
        """Wait for what is under way."""
        if self._forgetting:
            await asyncio.wait(self._forgetting, timeout=PUSH_SECONDS)

    async def _forget(self, announcement: Announcement) -> None:
        try:
            await self._store.announced(announcement)
        except GridcastError as error:
            _log.warning("%s of %s is pushed once more: %s", announcement.type, announcement.info.id, error)
