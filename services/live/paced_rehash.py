"""Computes the SHA-256 of recordings behind their end, slowly: they are committed without one, because none was read whole.

It changes neither entity tag nor revision. What a killed process has left is found when the next one starts.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

from services.common.errors import GridcastError
from services.common.media import MediaInfo, MediaName
from services.common.store.growing_files import GrowingFiles
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import LiveStore
from services.common.store.media_reader import MediaReader

BYTES_PER_SECOND = 16 * 1024 * 1024
BLOCKS_OF_READ = 8
MAX_WAITING = 1024
START_DELAY_SECONDS = 30.0
"""What earlier processes have left is looked for so long after the start, about."""

_log = logging.getLogger("gridcast.live")


class PacedRehash:
    """The files of one process that wait for their digest."""

    def __init__(
        self,
        reader: MediaReader,
        growing: GrowingFiles,
        live: LiveStore,
        invalidate: Callable[[str, str], Awaitable[None]],
        bytes_per_second: int = BYTES_PER_SECOND,
    ) -> None:
        """`invalidate` announces a folder and a filename whose metadata have changed."""
        self._reader = reader
        self._growing = growing
        self._live = live
        self._invalidate = invalidate
        self._bytes_per_second = bytes_per_second
        self._waiting: asyncio.Queue[MediaInfo] = asyncio.Queue(MAX_WAITING)

    def add(self, info: MediaInfo) -> None:
        """Add a file without a digest. Beyond MAX_WAITING it waits for the next start of a process."""
        if not self._waiting.full():
            self._waiting.put_nowait(info)

    async def run(self) -> None:
        """Hash one file after another until cancelled."""
        while True:
            info = await self._waiting.get()
            try:
                await self.rehash(info)
            except GridcastError as error:
                _log.info("digest of file %s not computed: %s", info.id, error)
            except Exception:  # noqa: BLE001  # the next file may be whole
                _log.exception("digest of file %s not computed", info.id)

    async def find_left_over(self) -> None:
        """Add what earlier processes have left, once."""
        await asyncio.sleep(START_DELAY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, not a secret
        after = ""
        try:
            while page := await self._live.list_streams(after=after):
                for stream in page:
                    after = stream.new.id
                    for one in stream.files:
                        info = await self._live.find_file(one)
                        if info is not None and info.sha256 is None:
                            await self._waiting.put(info)
        except GridcastError as error:
            _log.info("files without a digest not looked for: %s", error)

    async def rehash(self, info: MediaInfo) -> bool:
        """Read a file at the pace and store its digest; False where it has one, or is no longer current."""
        digest, count = hashlib.sha256(), -(-info.length // BLOCK_SIZE)
        for first in range(0, count, BLOCKS_OF_READ):
            began = time.monotonic()
            blocks = await self._reader.read_blocks(info, first, min(first + BLOCKS_OF_READ, count) - 1)
            data = b"".join(blocks)
            await asyncio.to_thread(digest.update, data)
            pause = len(data) / self._bytes_per_second - (time.monotonic() - began)
            if pause > 0 and first + BLOCKS_OF_READ < count:
                await asyncio.sleep(pause)
        current = await self._reader.find(MediaName(info.folder, info.filename))
        if current is None or current.file_id != info.file_id:
            return False
        is_set = await self._growing.set_sha256(current, digest.hexdigest())
        if is_set:
            await self._invalidate(info.folder, info.filename)
        return is_set
