"""Whole blocks of unfinished uploads as the block cache reads them: below a settled offset they never change."""

from datetime import UTC, datetime

from services.common.media import MediaInfo
from services.common.store.limits import BLOCK_SIZE
from services.common.store.upload_playback import GrowingUpload, UploadPlayback

GROWING_CACHE_BYTES = 32 * 1024 * 1024
"""Memory for blocks of uploads that are played, read-ahead included: players of one upload are near each other."""
_NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)


class GrowingBlocks:
    """A `BlockReader` of unfinished uploads."""

    block_size = BLOCK_SIZE

    def __init__(self, playback: UploadPlayback) -> None:
        self._playback = playback

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Read blocks of the file that `growing_info` has described."""
        upload = GrowingUpload(info.file_id, (last_block + 1) * BLOCK_SIZE, None)
        return await self._playback.read_blocks(upload, first_block, last_block)


def growing_info(upload: GrowingUpload) -> MediaInfo:
    """Return what the block cache needs to know of a file: its id."""
    return MediaInfo("", upload.file_id, "", "", upload.offset, "", None, _NO_DATE, stored_etag='""')
