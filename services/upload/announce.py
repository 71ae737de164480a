"""Tells the world of a change: pushes an event that the store has noted, then lets the store forget it. It knows no HTTP.

The order makes it safe: a crash before the push leaves the note, and the event goes out later with the same id.
"""

import asyncio
import logging

from services.common.errors import GridcastError
from services.common.media import MediaInfo
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

    async def announce(self, info: MediaInfo, announcement: Announcement) -> None:
        """Drop cached metadata everywhere, then tell every socket. Never raises for a Redis that is away: the file is stored."""
        try:
            async with asyncio.timeout(PUSH_SECONDS):
                await self._push.invalidate(info.folder, info.filename)
                await self._push.broadcast(announcement.type, info.public(), id=announcement.id)
            await self._store.announced(announcement)
        except (GridcastError, TimeoutError) as error:
            _log.warning("%s of %s is pushed later: %s", announcement.type, info.id, error)
