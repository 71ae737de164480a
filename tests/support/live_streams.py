"""Live streams as their writer would store them, without any media in them."""

from dataclasses import replace
from datetime import UTC, datetime

from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.live_store import LivePosition, LiveProgress, NewStream
from services.common.store.upload_store import NewUpload, UploadHandle
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, StoreAdapters

SEGMENT_BYTES = 1000
EXPIRY = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def a_stream(upload: UploadHandle, stream_id: str = "s", **fields: object) -> NewStream:
    """The stream of an upload."""
    stream = NewStream(
        id=stream_id,
        upload_id=upload.upload_id,
        name=upload.name or NAME,
        owner=upload.owner,
        title="title",
        target=2,
        grace=60.0,
        takeover=False,
        window=None,
        token_sha256="0" * 64,
        token_expires_at=EXPIRY,
    )
    return replace(stream, **fields)  # type: ignore[arg-type]


async def begin_stream(
    adapters: StoreAdapters, stream_id: str = "s", name: MediaName = NAME, owner: str = "", ttl: float = 60
) -> UploadHandle:
    """An upload with its stream."""
    upload = await adapters.store.create_upload(name, NewUpload(None, ttl, owner=owner))
    await adapters.live.create_stream(a_stream(upload, stream_id))
    return upload


def segment(number: int, epoch: int = 0, mark: int = 0) -> Segment:
    """A segment; those with another `mark` differ."""
    offset = CHUNK_SIZE + number * SEGMENT_BYTES
    return Segment(number, epoch, offset, SEGMENT_BYTES, number * 180_000 + mark, 180_000, 90_000, 2.5 * number, True)


def epoch(number: int, init: bytes = b"init") -> Epoch:
    """An epoch whose numbers need many bits."""
    return Epoch(number, init, 90_000, (1 << 62) - 1, number * 180_000, 1.5)


def progress(
    first: int, last: int, *, epochs: tuple[Epoch, ...] = (), pending: bytes = b"", mark: int = 0
) -> LiveProgress:
    """Segments from `first` to `last`, and the position behind them."""
    segments = [segment(number, mark=mark) for number in range(first, last + 1)]
    position = LivePosition(CHUNK_SIZE + (last + 1) * SEGMENT_BYTES, last + 100, last, file_end=last, timescale=90_000)
    return LiveProgress(position, epochs, segments, pending)
