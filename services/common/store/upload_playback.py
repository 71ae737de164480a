"""The store's port for uploads that are played before they are complete: found by their address, read without any write.

The guarantees are written here; every implementation is tested against them by the same contract tests.
"""

from dataclasses import dataclass
from typing import Protocol

from services.common.media import MediaInfo
from services.common.store.limits import BLOCK_SIZE
from services.common.store.play_addresses import PlayAddress

SETTLE_SECONDS = 0.6
"""After this time an offset that was seen is durable, whatever crashes: MongoDB flushes its journal at least each 500 ms, and
PostgreSQL its log within three rounds of 200 ms."""


@dataclass(frozen=True, slots=True)
class GrowingUpload:
    """An unfinished upload as it was found: `offset` bytes of it can be read, and it will have `length`, None where unknown.

    `file_id` identifies its bytes. `tail` are those behind the last whole block, None where `read_tail` returns them. `tail_key` is
    opaque.
    """

    file_id: str
    offset: int
    length: int | None
    tail: bytes | None = None
    tail_key: str = ""

    @property
    def whole_blocks(self) -> int:
        """Blocks that are complete, and never change again once the offset has settled."""
        return self.offset // BLOCK_SIZE

    @property
    def tail_length(self) -> int:
        """Bytes behind the last whole block."""
        return self.offset % BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class PlayedFile:
    """The file that the upload has become."""

    info: MediaInfo


class UploadPlayback(Protocol):
    """Finds and reads unfinished uploads by their play addresses. Never writes. Raises ServiceUnavailable."""

    async def find(self, address: PlayAddress) -> GrowingUpload | PlayedFile | None:
        """Return the upload, or its file while the outcome of the upload is kept and the file is the current one of its name.

        None where there is neither, or the tag is another. The offset is as it is now, and counts as durable once SETTLE_SECONDS
        have passed since it was returned.
        """

    async def read_blocks(self, upload: GrowingUpload, first_block: int, last_block: int) -> list[bytes]:
        """Return whole blocks below the offset of `upload`. Raises CorruptFile where one is missing."""

    async def read_tail(self, upload: GrowingUpload) -> bytes | None:
        """Return the bytes behind the last whole block; None where they have been replaced since `upload` was found."""
