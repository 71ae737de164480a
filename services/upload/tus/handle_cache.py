"""Handles of uploads whose last PATCH has just ended in this process: the next one renews the lease and acquires nothing.

The fencing token decides whether the handle is still valid. Without it a client that sends parts of a few MiB would wait for two
reads and a journaled write before each part (ADR 55).
"""

import time
from collections import OrderedDict

from services.common.store.upload_store import InProgressUpload, UploadHandle

MAX_HANDLES = 1024
Held = tuple[UploadHandle, InProgressUpload]


class HandleCache:
    """Handles by upload id, each with the durable state of its upload, for `max_age` seconds; bounded, the oldest is dropped."""

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._held: OrderedDict[str, tuple[float, Held]] = OrderedDict()

    def put(self, upload: UploadHandle, state: InProgressUpload) -> None:
        """Keep the handle of a writer that has ended at the durable offset `state.offset`, with no tail behind it."""
        self._held.pop(upload.upload_id, None)
        self._held[upload.upload_id] = time.monotonic(), (upload, state)
        if len(self._held) > MAX_HANDLES:
            self._held.popitem(last=False)

    def get(self, upload_id: str) -> Held | None:
        """Return handle and state, None where they are not known or too old."""
        held_at, held = self._held.get(upload_id, (0.0, None))
        return held if held is not None and time.monotonic() - held_at < self._max_age else None

    def pop(self, upload_id: str) -> Held | None:
        """Remove and return what `get` returns. To be called by everyone who acquires the upload."""
        held = self.get(upload_id)
        self._held.pop(upload_id, None)
        return held
