"""What is refused although it is well-formed: too many at once, no space, a media type that is not wanted. It knows no HTTP."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from services.common import metrics
from services.common.errors import GridcastError, NoSpace, TooLarge, Unavailable, UnsupportedMediaType
from services.common.store.port import UploadStore
from services.upload.body import Body

LOOK_SECONDS = 1.0
"""Between two looks at the free space: bytes whose number nobody stated must fit under the floor meanwhile."""
BUSY_RETRY_SECONDS = 5
CUT_SECONDS = 1.0
"""How long a cut upload may take to leave; the server takes about a second more. While MongoDB was silent a stop ended 2.4 s after
the drain time with PyMongo's own driver, and 8.3 s after it with Motor."""

_log = logging.getLogger("gridcast.upload")


class Stopping(Unavailable):
    """503 because this process ends, while the store is well."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class Limits:
    """The limits of one process."""

    def __init__(self, *, most: int, max_length: int, floor: int, media_types: Sequence[str]) -> None:
        self.max_length = max_length
        self._most = most
        self._open: set[Body] = set()
        metrics.UPLOADS_OPEN.set_function(lambda: len(self._open))
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._floor = floor
        self._free: int | None = None
        self._media_types = [pattern.lower() for pattern in media_types]

    @contextmanager
    def entered(self, body: Body) -> Iterator[None]:
        """One of the uploads under way. Raises Unavailable where there are as many as this process takes, or at its end."""
        self.check_open()
        if len(self._open) >= self._most:
            raise Unavailable("this server receives as many uploads as it can", BUSY_RETRY_SECONDS)
        self._open.add(body)
        self._idle.clear()
        try:
            yield
        finally:
            self._open.discard(body)
            if not self._open:
                self._idle.set()

    def check_open(self) -> None:
        """Raises Stopping at the end of the process."""
        if self._stopping:
            raise Stopping

    async def drain(self, seconds: float) -> None:
        """Take no more uploads, give those under way so long, then cut them: what can be resumed is made durable and left."""
        self._stopping = True
        await self._idle_within(seconds)
        for body in self._open:
            body.cut(Stopping())
        await self._idle_within(CUT_SECONDS)

    async def _idle_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    def check_length(self, length: int | None) -> None:
        """Raises TooLarge, and NoSpace where the bytes to come would leave less than the floor."""
        if length is not None and length > self.max_length:
            raise TooLarge(f"the file is larger than {self.max_length} bytes")
        if self._floor and self._free is not None:
            if self._free - (length or 0) < self._floor:
                raise NoSpace("there is no space left for this file")
            # Until the next look: many at once must not be promised the same space.
            self._free -= length or 0

    def check_type(self, content_type: str) -> str:
        """`content_type`. Raises UnsupportedMediaType where it is not one of those that are wanted."""
        kind = content_type.partition(";")[0].strip().lower()
        if self._media_types and not any(fnmatchcase(kind, pattern) for pattern in self._media_types):
            raise UnsupportedMediaType(f"files of type {kind} are not taken here")
        return content_type

    async def watch(self, store: UploadStore) -> None:
        """Look at the free space until cancelled; below the floor nothing more is received, whatever was foreseen of it."""
        while self._floor:
            try:
                self._free = await store.free()
            except GridcastError as error:
                _log.debug("the free space is not known: %s", error)
            except Exception as error:  # noqa: BLE001  # the next look may be allowed
                _log.warning("the free space is not known: %s", error)
            if self._free is not None and self._free < self._floor:
                for body in self._open:
                    body.cut(NoSpace("there is no space left for this file"))
            await asyncio.sleep(LOOK_SECONDS)
