"""Writes live streams through the ports of the store, as the service that takes them does: for tests of those who read."""

import secrets
import time
from datetime import UTC, datetime, timedelta

from services.common.bus.redis import RedisClient
from services.common.live.cuts import Cut
from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.header import render_header
from services.common.live.initialisation import read_init
from services.common.live.segments import Epoch, Segment
from services.common.live.wakeups import CHANNEL, WakeUp, encode_wake_up
from services.common.media import MediaInfo, MediaName
from services.common.store.factory import MediaStore
from services.common.store.growing_files import file_etag
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import LivePosition, LiveProgress, LiveState, NewStream
from services.common.store.upload_store import NewUpload, StoredFile, UploadHandle
from tests.support.fragmented_mp4 import fragment, init


class LiveWriter:
    """The publisher of one stream. Without `redis` no reader is woken."""

    def __init__(self, store: MediaStore, redis: RedisClient | None, *, target: int = 2) -> None:
        self.id = secrets.token_hex(16)
        self.segments: list[Segment] = []
        self.epochs: list[Epoch] = []
        self.cutter = Cutter(target, BLOCK_SIZE)
        self.reader = FragmentReader()
        self.redis = redis
        self.target = target
        self._store = store
        self._upload: UploadHandle | None = None
        self._tail = bytearray()  # bytes would be copied with every segment
        self._seconds = 0.0
        self._pending: tuple[list[Epoch], list[Segment]] = ([], [])

    @property
    def upload(self) -> UploadHandle:
        assert self._upload is not None
        return self._upload

    @property
    def path(self) -> str:
        return f"/live/{self.id}"

    async def create(self, folder: str = "live", *, window: int | None = None) -> "LiveWriter":
        """Create the upload and the stream."""
        name = MediaName(folder, f"{self.id}.mp4")
        self._upload = await self._store.uploads.create_upload(name, NewUpload(None, 600))
        await self._store.live.create_stream(
            NewStream(
                id=self.id,
                upload_id=self._upload.upload_id,
                name=name,
                owner="",
                title="a stream",
                target=self.target,
                grace=60,
                takeover=False,
                window=window,
                token_sha256=secrets.token_hex(32),
                token_expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        )
        await self._store.live.set_publisher(self.id, self._upload.fencing_token, "test")
        return self

    async def send(self, data: bytes, now: float | None = None, *, wake: bool = True) -> None:
        """Take bytes of a sender, and publish the segments that they complete."""
        self._take(data, time.time() if now is None else now)
        await self._advance(wake=wake)

    def _take(self, data: bytes, now: float) -> None:
        for unit in self.reader.feed(data):
            cut = self.cutter.add(unit, now) if isinstance(unit, Fragment) else self.cutter.set_init(unit)
            self._keep(cut)

    async def add_segments(self, count: int, *, fill: int = 100, wake: bool = True) -> None:
        """Add segments of one target duration each: what a player would refuse, but any reader of lists takes."""
        now = time.time()
        if self.reader.init is None:
            self._take(init(), now)
        for _ in range(count):
            self._take(fragment(self._seconds, self.target, fill=fill), now)
            self._seconds += self.target
        await self._advance(wake=wake)

    async def begin_source(self) -> None:
        """What is sent next is of another sender."""
        self._keep(self.cutter.begin_source())
        self._seconds = 0.0
        self.reader = FragmentReader()
        await self._advance(wake=True)

    async def begin_epoch(self) -> None:
        """The same, for `add_segments`."""
        await self.begin_source()
        await self.send(init())

    async def set_state(self, state: LiveState, *, wake: bool = True) -> None:
        """Change the state alone."""
        await self._store.live.set_state(self.id, self.upload.fencing_token, state)
        if wake:
            await self.wake(state)

    async def end(self, *, wake: bool = True) -> MediaInfo:
        """Close the last segment, commit the file, and tell the readers."""
        self._keep(self.cutter.end())
        await self._advance(wake=False)
        last, length = self.segments[-1], self.cutter.position
        header = render_header(read_init(self.epochs[0].init), self.segments, BLOCK_SIZE)
        if self._tail:
            await self._store.uploads.write_blocks(self.upload, length // BLOCK_SIZE, [bytes(self._tail)])
        await self._store.growing.place_header(self.upload, header)
        stored = StoredFile(length, "video/mp4", None, file_etag(self.upload, length))
        info = (await self._store.uploads.commit(self.upload, stored)).info
        await self._store.live.set_state(self.id, self.upload.fencing_token, "ended", "publisher", info.revision)
        if wake:
            await self.wake("ended", last.number)
        return info

    async def wake(self, state: LiveState = "live", last: int | None = None) -> None:
        """Publish a wake-up."""
        if self.redis is not None:
            number = last if last is not None else len(self.segments) - 1
            await self.redis.execute("PUBLISH", CHANNEL, encode_wake_up(WakeUp(self.id, number, state)))

    def _keep(self, cut: Cut) -> None:
        self._tail += cut.data
        self.epochs += cut.epochs
        self.segments += cut.segments
        self._pending[0].extend(cut.epochs)
        self._pending[1].extend(cut.segments)

    async def _advance(self, *, wake: bool) -> None:
        end = self.cutter.position
        first = (end - len(self._tail)) // BLOCK_SIZE
        whole = len(self._tail) // BLOCK_SIZE
        if whole:
            blocks = [bytes(self._tail[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]) for number in range(whole)]
            await self._store.uploads.write_blocks(self.upload, first, blocks)
            del self._tail[: whole * BLOCK_SIZE]
        await self._store.uploads.set_offset(self.upload, end, bytes(self._tail), None, keep_lease=True)
        epochs, segments = self._pending
        self._pending = ([], [])
        last = self.segments[-1].number if self.segments else -1
        position = LivePosition(end, last_segment=last, timescale=90_000)
        progress = LiveProgress(position, tuple(epochs), tuple(segments))
        await self._store.live.advance(self.id, self.upload.fencing_token, progress)
        if wake and segments:
            await self.wake()
