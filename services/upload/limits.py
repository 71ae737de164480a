"""What is refused although it is well-formed: too many at once, no space, a media type that is not wanted. It knows no HTTP."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from services.common.errors import (
    ContentTooLarge,
    GridcastError,
    InsufficientStorage,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from services.common.store.upload_store import UploadStore
from services.common.telemetry import metrics
from services.upload.body import UploadBody

DISK_SPACE_POLL_SECONDS = 1.0
"""Between two looks at the free space: bytes whose number nobody stated must fit under the floor meanwhile."""
BUSY_RETRY_AFTER_SECONDS = 5
ABORT_TIMEOUT_SECONDS = 1.0
"""How long a cut upload may take to leave; the server takes about a second more. While MongoDB was silent a stop ended 2.4 s after
the drain time with PyMongo's own driver, and 8.3 s after it with Motor."""

_log = logging.getLogger("gridcast.upload")


class ShuttingDown(ServiceUnavailable):
    """503 because this process ends, while the store is well."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class UploadLimiter:
    """The limits of one process."""

    def __init__(self, *, max_uploads: int, max_size: int, min_free_bytes: int, media_types: Sequence[str]) -> None:
        self.max_size = max_size
        self._max_uploads = max_uploads
        self._active_bodies: set[UploadBody] = set()
        metrics.UPLOAD_REQUESTS_IN_FLIGHT.set_function(lambda: len(self._active_bodies))
        self._shutting_down = False
        self._no_active_uploads = asyncio.Event()
        self._no_active_uploads.set()
        self._min_free_bytes = min_free_bytes
        self._free_bytes: int | None = None
        self._media_types = [pattern.lower() for pattern in media_types]

    @contextmanager
    def acquire_slot(self, body: UploadBody) -> Iterator[None]:
        """One of the uploads under way. Raises Unavailable where there are as many as this process takes, or at its end."""
        self.check_accepting()
        if len(self._active_bodies) >= self._max_uploads:
            raise ServiceUnavailable("too many concurrent uploads", BUSY_RETRY_AFTER_SECONDS)
        self._active_bodies.add(body)
        self._no_active_uploads.clear()
        try:
            yield
        finally:
            self._active_bodies.discard(body)
            if not self._active_bodies:
                self._no_active_uploads.set()

    def check_accepting(self) -> None:
        """Raises Stopping at the end of the process."""
        if self._shutting_down:
            raise ShuttingDown

    async def drain(self, timeout_seconds: float) -> None:
        """Take no more uploads, give those under way so long, then cut them: what can be resumed is made durable and left."""
        self._shutting_down = True
        await self._wait_until_drained(timeout_seconds)
        for body in self._active_bodies:
            body.abort(ShuttingDown())
        await self._wait_until_drained(ABORT_TIMEOUT_SECONDS)

    async def _wait_until_drained(self, timeout_seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._no_active_uploads.wait()

    def check_size(self, length: int | None) -> None:
        """Raises TooLarge, and NoSpace where the bytes to come would leave less than the floor."""
        if length is not None and length > self.max_size:
            raise ContentTooLarge(f"the file is larger than {self.max_size} bytes")
        if self._min_free_bytes and self._free_bytes is not None:
            if self._free_bytes - (length or 0) < self._min_free_bytes:
                raise InsufficientStorage("insufficient disk space for this file")
            # Until the next look: many at once must not be promised the same space.
            self._free_bytes -= length or 0

    def check_media_type(self, content_type: str) -> str:
        """`content_type`. Raises UnsupportedMediaType where it is not one of those that are wanted."""
        kind = content_type.partition(";")[0].strip().lower()
        if self._media_types and not any(fnmatchcase(kind, pattern) for pattern in self._media_types):
            raise UnsupportedMediaType(f"media type {kind} is not allowed")
        return content_type

    async def monitor_disk_space(self, store: UploadStore) -> None:
        """Look at the free space until cancelled; below the floor nothing more is received, whatever was foreseen of it."""
        while self._min_free_bytes:
            try:
                self._free_bytes = await store.get_free_bytes()
            except GridcastError as error:
                _log.debug("free disk space unknown: %s", error)
            except Exception as error:  # noqa: BLE001  # the next look may be allowed
                _log.warning("free disk space unknown: %s", error)
            if self._free_bytes is not None and self._free_bytes < self._min_free_bytes:
                for body in self._active_bodies:
                    body.abort(InsufficientStorage("insufficient disk space for this file"))
            await asyncio.sleep(DISK_SPACE_POLL_SECONDS)
