"""Segments and initialisation segments: immutable, with ranges and preconditions as files have them.

Before the commit a segment is read once and kept; after it the blocks of the file are read, which other readers of the file share.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from services.common.errors import NotFound, ServiceUnavailable
from services.common.http.dates import format_http_date
from services.common.http.encoding import PreencodedHeaders
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.inline_types import ATTACHMENT_POLICY
from services.stream.live.committed_files import CommittedFiles
from services.stream.live.segment_cache import SegmentCache
from services.stream.live.stream_loader import StreamLoader
from services.stream.response_plan import Representation, ResponsePlan

PIECE_MEDIA_TYPE = "video/mp4"
MAX_AGE_SECONDS = 31_536_000
WRITE_BYTES = 256 * 1024
"""Bytes of one write, about a block: the transport has room again before the next."""

_log = logging.getLogger("gridcast.stream.live")


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a stream with the headers of its responses. `data` is None where it is to be read: then it is a `segment`."""

    representation: Representation
    data: bytes | None
    segment: Segment | None = None

    def iter_chunks(self, plan: ResponsePlan) -> Iterator[bytes | memoryview]:
        """Yield the body of a planned response out of memory, without copying."""
        view = memoryview(self.data or b"")
        for item in plan.body_parts:
            if isinstance(item, bytes):
                yield item
                continue
            for begin in range(item.first, item.last + 1, WRITE_BYTES):
                yield view[begin : min(begin + WRITE_BYTES, item.last + 1)]


class PieceReader:
    """Finds the bytes of segments.

    Arguments:
        segments: those of streams that are not committed.
        blocks: those of files.
        files: finds the file that a stream has become.
        cache_scope: `public` where all may read everything, else `private`.

    """

    def __init__(self, segments: SegmentCache, blocks: BlockCache, files: CommittedFiles, cache_scope: str) -> None:
        self._segments = segments
        self._blocks = blocks
        self._files = files
        self._cache_scope = cache_scope

    def of_epoch(self, loader: StreamLoader, epoch: Epoch) -> Piece:
        """Return the initialisation segment of an epoch."""
        data = epoch.init
        return Piece(self._represent(loader, f"init-{epoch.number}", len(data), epoch.date), data)

    def of_segment(self, loader: StreamLoader, segment: Segment) -> Piece:
        """Return a segment, with its bytes where they are in memory."""
        return self.get(loader, segment) or Piece(self._represent_segment(loader, segment), None, segment)

    def get(self, loader: StreamLoader, segment: Segment) -> Piece | None:
        """Return a segment whose bytes are in memory, else None."""
        data = self._segments.get(loader.stream_id, segment.number)
        return None if data is None else Piece(self._represent_segment(loader, segment), data, segment)

    async def read(self, loader: StreamLoader, piece: Piece, plan: ResponsePlan) -> AsyncIterator[bytes | memoryview]:
        """Yield the body of a planned response. Raises NotFound, and ServiceUnavailable; later ones end it too early."""
        segment = piece.segment
        if not plan.body_parts:
            return
        if segment is None or piece.data is not None:
            for chunk in piece.iter_chunks(plan):
                yield chunk
            return
        try:
            stream = loader.stream.in_file_of(segment.epoch)
            if stream.revision is None:
                data = await self._segments.get_or_read(loader.stream_id, stream.new.upload_id, segment)
                if data is not None:
                    for chunk in Piece(piece.representation, data, segment).iter_chunks(plan):
                        yield chunk
                    return
            info = await self._files.find(stream)
            if info is None:
                raise NotFound("the file of this stream is not there any more")
            async for chunk in self._read_file(info, segment, plan):
                yield chunk
        except CorruptFile as error:
            metrics.CORRUPT_FILES.inc()
            # The text of the error may have the id of the upload, which is a capability.
            _log.error("live stream %s: segment %d is damaged", loader.stream_id, segment.number)
            raise ServiceUnavailable("the stream is damaged here") from error

    async def _read_file(
        self, info: MediaInfo, segment: Segment, plan: ResponsePlan
    ) -> AsyncIterator[bytes | memoryview]:
        size = self._blocks.block_size
        for item in plan.body_parts:
            if isinstance(item, bytes):
                yield item
                continue
            begin, end = segment.offset + item.first, segment.offset + item.last + 1
            first, last = begin // size, (end - 1) // size
            with self._blocks.open_reader(info, first, last) as reader:
                for number in range(first, last + 1):
                    block = await reader.read(number)
                    yield memoryview(block)[max(0, begin - number * size) : min(size, end - number * size)]

    def _represent_segment(self, loader: StreamLoader, segment: Segment) -> Representation:
        return self._represent(loader, str(segment.number), segment.size, segment.date)

    def _represent(self, loader: StreamLoader, part: str, length: int, date: float) -> Representation:
        return piece_representation(loader.stream_id, part, length, date, self._cache_scope)


def piece_representation(stream_id: str, part: str, length: int, date: float, scope: str) -> Representation:
    """Return what all responses about one part of a stream share. `scope` is `public` or `private`, `date` its Unix time.

    The entity tag is strong: the bytes of an address never change.
    """
    modified = datetime.fromtimestamp(int(date), UTC)
    etag = f'"{stream_id}-{part}"'
    info = MediaInfo("", "", "", part, length, PIECE_MEDIA_TYPE, None, modified, etag)
    validators = (
        (b"etag", etag.encode("ascii")),
        (b"last-modified", format_http_date(modified).encode("ascii")),
        (b"cache-control", f"{scope}, max-age={MAX_AGE_SECONDS}, immutable".encode("ascii")),
    )
    parts = (
        *validators,
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", ATTACHMENT_POLICY),
    )
    content = (*parts, (b"content-type", PIECE_MEDIA_TYPE.encode("ascii")))
    return Representation(
        info, etag, modified, PreencodedHeaders(validators), PreencodedHeaders(parts), PreencodedHeaders(content)
    )
