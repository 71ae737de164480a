"""Follows unfinished uploads for their players: one reader of the state for each upload and process, however many they are.

An offset that the store has returned is used once it has settled (`upload_playback`), so that no player and no cache ever sees a
byte that a crash takes back.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.common.aio.cancellation import cancel_and_wait
from services.common.asgi import ClientDisconnected
from services.common.containers.layout import media_type_of
from services.common.errors import Gone, GridcastError, ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.common.store.play_addresses import PlayAddress
from services.common.store.upload_playback import SETTLE_SECONDS, GrowingUpload, PlayedFile, UploadPlayback
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.growing.growing_blocks import growing_info

LOOK_SECONDS = 0.2
"""Between two looks at an upload that has players."""
WAIT_SECONDS = 8.0
"""How long a player waits for the next byte."""
READ_BLOCKS = 8
"""Blocks of one query (2 MiB)."""
MAX_FOLLOWED_UPLOADS = 256
MAX_PLAYERS_PER_UPLOAD = 32
MAX_PLAYERS = 512
"""Responses of one process that may wait for bytes of uploads."""

_log = logging.getLogger("gridcast.stream")


class Starved(Exception):
    """The next byte has not come in time."""


class FollowedUpload:
    """One upload as its players see it: first it grows, then it is a file, or gone."""

    def __init__(self, playback: UploadPlayback, address: PlayAddress, growing: BlockCache, files: BlockCache) -> None:
        self.players = 0
        self.length: int | None = None
        self._playback = playback
        self._address = address
        self._growing_cache, self._file_cache = growing, files
        self._settled: GrowingUpload | None = None
        self._seen: deque[tuple[float, GrowingUpload]] = deque()
        self._file: MediaInfo | None = None
        self._gone = False
        self._asked_at = float("-inf")
        self._changed = asyncio.Event()
        self._tail: tuple[int, bytes] = (0, b"")
        self._content_type: str | None = None
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def file(self) -> MediaInfo | None:
        """The file that the upload has become, None before."""
        return self._file

    @property
    def available(self) -> int:
        """Bytes that are there."""
        if self._file is not None:
            return self._file.length
        return self._settled.offset if self._settled is not None else 0

    @property
    def file_id(self) -> str | None:
        """The id of the bytes that are read, None where none are known."""
        known = self._file or self._settled
        return None if known is None else known.file_id

    async def look(self) -> None:
        """Ask the store where the upload is, unless it was asked a moment ago. Raises Gone, ServiceUnavailable."""
        async with self._lock:  # single-flight: those that have waited find a new state
            now = asyncio.get_running_loop().time()
            if self._file is not None or now - self._asked_at >= LOOK_SECONDS:  # a deleted file is gone at once
                self._note(await self._playback.find(self._address))
                self._asked_at = asyncio.get_running_loop().time()
            self._settle()
        if self._gone:
            raise upload_ended()

    async def content_type(self, is_disconnected: Callable[[], bool]) -> str:
        """Return the media type that the first bytes say, or that of the file. Raises as `read`."""
        if self._file is not None:
            return self._file.content_type
        if self._content_type is None:
            self._content_type = media_type_of(bytes(await self.read(0, is_disconnected)))
        return self._content_type

    async def read(self, position: int, is_disconnected: Callable[[], bool]) -> bytes | memoryview:
        """Return bytes from `position` on, at most a block; none behind the end of the complete file.

        Raises Starved where they do not come, Gone where the upload ends without a file, ClientDisconnected; CorruptFile and
        ServiceUnavailable of the store.
        """
        while True:
            await self.wait_for(position, is_disconnected)
            bytes_of = self.file_id
            try:
                if (info := self._file) is not None:
                    return await self._read_file(info, position) if position < info.length else b""
                if (data := await self._read_growing(position)) is not None:
                    return data
            except CorruptFile:
                # Perhaps the upload has just ended, or goes on in a copy: only bytes that are still looked for are missing.
                await asyncio.sleep(LOOK_SECONDS)
                await self.look()
                if self.file_id == bytes_of:
                    raise
            else:
                await self._wait_for_change(LOOK_SECONDS)  # a tail that was replaced

    async def wait_for(self, position: int, is_disconnected: Callable[[], bool]) -> None:
        """Wait until the byte at `position` is there, or the file is complete. Raises as `read`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + WAIT_SECONDS
        while self._file is None and self.available <= position:
            if self._gone:
                raise upload_ended()
            if is_disconnected():
                raise ClientDisconnected
            if (left := deadline - clock()) <= 0:
                raise Starved
            await self._wait_for_change(left)

    @contextmanager
    def play(self) -> Iterator[None]:
        """Follow the upload while a player is there."""
        self.players += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self.players -= 1

    async def aclose(self) -> None:
        """Stop following."""
        await cancel_and_wait(self._task)

    async def _follow(self) -> None:
        """Look again and again while there are players. A store that is away is asked again: players give up by themselves."""
        while self.players and self._file is None and not self._gone:
            try:
                await self.look()
            except Gone:
                pass
            except GridcastError as error:
                _log.info("an upload that is played cannot be looked at: %s", error)
            except Exception:  # noqa: BLE001  # players give up by themselves
                _log.exception("an upload that is played cannot be looked at")
            self._changed.set()
            self._changed = asyncio.Event()
            await asyncio.sleep(LOOK_SECONDS)

    async def _wait_for_change(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _note(self, found: GrowingUpload | PlayedFile | None) -> None:
        if isinstance(found, GrowingUpload):
            self.length = found.length if self.length is None else self.length
            newest = self._seen[-1][1] if self._seen else self._settled
            # One that has just got its name begins with nothing in its new place, for a moment.
            if newest is None or found.offset > newest.offset:
                self._seen.append((asyncio.get_running_loop().time(), found))
            elif found.file_id != newest.file_id and found.offset == newest.offset and self._settled is not None:
                self._settled = found  # a copy of the same bytes, for another writer
        elif isinstance(found, PlayedFile):
            self._file, self.length, self._gone = found.info, found.info.length, False
        else:
            self._file, self._gone = None, True

    def _settle(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._seen and self._seen[0][0] + SETTLE_SECONDS <= now:
            self._settled = self._seen.popleft()[1]

    async def _read_file(self, info: MediaInfo, position: int) -> memoryview:
        number, begin = divmod(position, self._file_cache.block_size)
        last = (info.length - 1) // self._file_cache.block_size
        return memoryview(await _read_block(self._file_cache, info, number, last))[begin:]

    async def _read_growing(self, position: int) -> bytes | memoryview | None:
        if (upload := self._settled) is None:
            return None
        number, begin = divmod(position, self._growing_cache.block_size)
        if number < upload.whole_blocks:
            info = growing_info(upload)
            return memoryview(await _read_block(self._growing_cache, info, number, upload.whole_blocks - 1))[begin:]
        if self._tail[0] != upload.offset:
            tail = await self._playback.read_tail(upload)
            if tail is None or len(tail) != upload.tail_length:
                return None
            self._tail = upload.offset, tail
        return memoryview(self._tail[1])[begin:] or None


async def _read_block(cache: BlockCache, info: MediaInfo, number: int, last: int) -> bytes:
    block = cache.get(info.file_id, number)
    return block or await cache.get_or_fetch(info, number, min(last, number + READ_BLOCKS - 1))


def upload_ended() -> Gone:
    """The error of an address that leads nowhere: told alike for one that never did, and for one whose upload has ended."""
    return Gone("this upload has ended")


class FollowedUploads:
    """The uploads that have players in this process, and some that had some a moment ago."""

    def __init__(self, playback: UploadPlayback, growing: BlockCache, files: BlockCache) -> None:
        self._playback = playback
        self._growing_cache, self._file_cache = growing, files
        self._uploads: OrderedDict[PlayAddress, FollowedUpload] = OrderedDict()
        self.players = 0
        metrics.UPLOAD_PLAYERS.set_function(lambda: self.players)

    @contextmanager
    def play(self, address: PlayAddress) -> Iterator[FollowedUpload]:
        """Return the upload at that address, for one player. Raises ServiceUnavailable where there are too many."""
        upload = self._uploads.get(address) or self._add(address)
        self._uploads.move_to_end(address)
        if self.players >= MAX_PLAYERS or upload.players >= MAX_PLAYERS_PER_UPLOAD:
            raise ServiceUnavailable("too many players of uploads that are not complete")
        self.players += 1
        try:
            with upload.play():
                yield upload
        finally:
            self.players -= 1

    async def aclose(self) -> None:
        """Stop following all of them."""
        for upload in self._uploads.values():
            await upload.aclose()

    def _add(self, address: PlayAddress) -> FollowedUpload:
        while len(self._uploads) >= MAX_FOLLOWED_UPLOADS:
            idle = next((key for key, upload in self._uploads.items() if not upload.players), None)
            if idle is None:
                raise ServiceUnavailable("too many uploads are played")
            del self._uploads[idle]
        upload = FollowedUpload(self._playback, address, self._growing_cache, self._file_cache)
        self._uploads[address] = upload
        return upload
