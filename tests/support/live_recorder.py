"""A writer of a live stream, the smallest one possible; the bytes of a segment follow from its number and its writer."""

import hashlib
from collections.abc import Awaitable, Callable

from services.common.live.segments import Epoch, Segment
from services.common.media import MediaInfo
from services.common.store.growing_files import file_etag
from services.common.store.live_store import LivePosition, LiveProgress, LiveStream
from services.common.store.upload_store import StoredFile, UploadHandle
from tests.support.live_streams import epoch
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import StoreAdapters

SEGMENT_SIZE = 2 * CHUNK_SIZE // 3 + 7
HEADER = b"\x01" * CHUNK_SIZE


def media_of(segment: Segment) -> bytes:
    """The bytes of a segment: those of other writers' segments of the same number differ."""
    seed = hashlib.sha256(f"{segment.number} {segment.start}".encode()).digest()
    return (seed * (segment.size // len(seed) + 1))[: segment.size]


async def ignore_step(step: str) -> None:
    """Go on."""
    del step


class Recorder:
    """One process that writes the stream. Its segments have its fencing token as their start."""

    def __init__(self, adapters: StoreAdapters, upload: UploadHandle, stream: LiveStream, tail: bytes) -> None:
        self._adapters = adapters
        self._stream_id = stream.new.id
        self._tail = tail
        self.upload = upload
        self.position = stream.position
        self._epoch = epoch(len(stream.epochs), b"init" * 100)
        self._new_epochs: tuple[Epoch, ...] = (self._epoch,)

    @classmethod
    async def acquire(cls, adapters: StoreAdapters, upload_id: str, stream_id: str = "s") -> "Recorder":
        """Go on where the position ends, whatever more has become durable."""
        acquired = await adapters.store.acquire(upload_id)
        assert isinstance(acquired, tuple)
        upload, state = acquired
        stream = await adapters.live.set_publisher(stream_id, upload.fencing_token, "p")
        end = stream.position.offset
        assert stream.position.last_segment < 0 or state.offset >= end
        start = max(CHUNK_SIZE, end - end % CHUNK_SIZE)
        found = await adapters.growing.read_durable(upload_id, start, end - start)
        assert found is not None
        assert len(found.data) == end - start
        return cls(adapters, upload, stream, found.data)

    def next_progress(self) -> LiveProgress:
        number = self.position.last_segment + 1
        size = SEGMENT_SIZE + number % 5
        offset, token = self.position.offset, self.upload.fencing_token
        segment = Segment(number, self._epoch.number, offset, size, token, 2, 1, 0.5, True)
        position = LivePosition(offset + size, self.position.sender_offset + size, number)
        return LiveProgress(position, self._new_epochs, (segment,), f"pending {number}".encode())

    async def add_segment(self, reached: Callable[[str], Awaitable[None]] = ignore_step) -> LiveProgress:
        """Store one more segment in the order of a writer. `reached` is called after each step: "blocks", "offset", "segment"."""
        progress = self.next_progress()
        (segment,) = progress.segments
        offset, store = self.position.offset - len(self._tail), self._adapters.store
        data = self._tail + media_of(segment)
        while len(data) >= CHUNK_SIZE:
            await store.write_blocks(self.upload, offset // CHUNK_SIZE, [data[:CHUNK_SIZE]])
            data, offset = data[CHUNK_SIZE:], offset + CHUNK_SIZE
        await reached("blocks")
        await store.set_offset(self.upload, progress.position.offset, data, None, keep_lease=True, durable=True)
        await reached("offset")
        await self._adapters.live.advance(self._stream_id, self.upload.fencing_token, progress)
        await reached("segment")
        self.position, self._tail, self._new_epochs = progress.position, data, ()
        return progress

    async def end(self) -> MediaInfo:
        """Write the last block and the header, and commit."""
        store = self._adapters.store
        if self._tail:
            await store.write_blocks(self.upload, self.position.offset // CHUNK_SIZE, [self._tail])
        await self._adapters.growing.place_header(self.upload, HEADER)
        length = self.position.offset
        stored_file = StoredFile(length, "video/mp4", None, file_etag(self.upload, length))
        event = await store.commit(self.upload, stored_file)
        assert await self._adapters.live.set_state(
            self._stream_id, self.upload.fencing_token, "ended", "", event.info.revision
        )
        return event.info
