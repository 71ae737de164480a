"""The store's port for files that are read while they grow: a live stream, or an upload that is played before it is complete.

The guarantees are written here; every implementation is tested against them by the same contract tests.
"""

from dataclasses import dataclass
from typing import Protocol

from services.common.media import MediaInfo
from services.common.store.limits import BLOCK_SIZE
from services.common.store.upload_store import UploadHandle

MAX_DURABLE_READ_BYTES = 16 * BLOCK_SIZE
"""Bytes that one call returns, at most."""
GROWING_ATTEMPTS = 5
"""Concurrent changes of one upload are few: a successor, its end, or a tail that was replaced while it was read."""


@dataclass(frozen=True, slots=True)
class DurableBytes:
    """Bytes of an unfinished upload, how many of it are durable (`offset`), and how many it will have, None where unknown."""

    data: bytes
    offset: int
    length: int | None


class GrowingFiles(Protocol):
    """Reads unfinished uploads, and completes files whose beginning or digest is known last. Raises ServiceUnavailable."""

    async def place_header(self, upload: UploadHandle, header: bytes) -> None:
        """Store block 0 of an upload that was written from block 1 on; it is durable when this returns. Nothing is truncated.

        Idempotent: a writer has one header, and one that it has placed before is compared. That of an older writer is replaced.
        Raises Conflict where the handle is void, then nothing has changed; ValueError where it has not the size of a block.
        """

    async def read_durable(self, upload_id: str, start: int, count: int) -> DurableBytes | None:
        """Return bytes from `start` on: at most `count`, and no more than are durable, so that they never change again.

        None where there is no such unfinished upload. Raises CorruptFile where durable bytes are missing. Block 0 of an upload that
        was written from block 1 on is not to be read.
        """

    async def set_sha256(self, info: MediaInfo, sha256: str) -> bool:
        """Give a version that was committed without a SHA-256 its digest, in lower-case hex; its entity tag and revision stay.

        False where it has one, or is no longer the current version of its name. Outcomes and events of its commit stay without.
        """


def file_etag(upload: UploadHandle, length: int) -> str:
    """Return the entity tag of a file that is committed without a SHA-256 (RFC 9110, 8.8.3).

    It is strong: the bytes of one file id never change once they are committed, and no other file has that id.
    """
    return f'"{upload.store_key}-{length}"'


def check_header(header: bytes) -> None:
    """Raise ValueError for a header that is not exactly one block."""
    if len(header) != BLOCK_SIZE:
        raise ValueError(f"a header has {BLOCK_SIZE} bytes, not {len(header)}")
