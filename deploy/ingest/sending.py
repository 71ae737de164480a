"""Sends the bytes of one publisher to its stream, and resumes after any loss: what is not durable is kept and sent again."""

import time
from collections.abc import Callable
from typing import TypeVar

from deploy.ingest.live_api import ApiError, LiveApi, PublishedStream

T = TypeVar("T")

MAX_UNSENT_BYTES = 32 * 1024 * 1024
"""Bytes that are kept while the service is away: beyond, the publisher is not read any more, and slows down or leaves."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
RESEND_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts; the last one is repeated."""


class Sender:
    """One source of one stream."""

    def __init__(self, api: LiveApi, stream: PublishedStream, wait: Callable[[float], None] = time.sleep) -> None:
        """`wait` pauses, and raises where the sending has to be given up."""
        self._api = api
        self._stream = stream
        self._wait = wait
        self._path = ""
        self._offset = 0
        self._unsent = bytearray()

    @property
    def stream(self) -> PublishedStream:
        """The stream that the bytes go to."""
        return self._stream

    @property
    def is_full(self) -> bool:
        """Whether the source must not be read until more is durable."""
        return len(self._unsent) >= MAX_UNSENT_BYTES

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are not durable."""
        return len(self._unsent)

    def begin(self) -> None:
        """Begin a source. Raises ApiError where the service refuses for good."""
        self._path = self._repeat(lambda: self._api.begin(self._stream))

    def feed(self, data: bytes) -> None:
        """Add bytes of the source."""
        self._unsent += data

    def flush(self) -> None:
        """Make durable what was fed, as far as it consists of complete fragments. Raises ApiError."""
        while self._unsent:
            before = self._offset
            self._repeat(self._send_once)
            if self._offset == before:
                return  # less than a fragment, more than is kept of one: the next bytes complete it

    def finish(self) -> None:
        """End the stream behind what was fed. Raises ApiError."""
        self.flush()
        self._repeat(lambda: self._api.append(self._stream, self._path, self._offset, b"", is_last=True))

    def _send_once(self) -> None:
        data = bytes(self._unsent[:MAX_REQUEST_BYTES])
        self._confirm(self._api.append(self._stream, self._path, self._offset, data))

    def _confirm(self, durable: int) -> None:
        done = durable - self._offset
        if not 0 <= done <= len(self._unsent):
            raise ApiError(409, "the stream is at an offset that was not sent")
        del self._unsent[:done]
        self._offset = durable

    def _repeat(self, request: Callable[[], T]) -> T:
        """Repeat a request until it gets an answer that counts."""
        attempt = conflicts = 0
        is_synchronised = False
        while True:
            try:
                return request()
            except ApiError as error:
                # 409: the answer that said the new offset was lost; with the right offset it says that another publisher is there.
                conflicts += error.status == 409 and is_synchronised
                if not error.is_temporary and (error.status != 409 or conflicts > len(RESEND_PAUSES)):
                    raise
            self._wait(RESEND_PAUSES[min(attempt, len(RESEND_PAUSES) - 1)])
            attempt += 1
            is_synchronised = not self._path or self._resynchronise()

    def _resynchronise(self) -> bool:
        """Learn what of the last request is durable. False where there is no answer: the next attempt finds out."""
        try:
            durable = self._api.offset(self._stream, self._path)
        except ApiError as error:
            if error.is_temporary:
                return False
            raise
        self._confirm(durable)
        return True
