"""The ways in: the bytes of a tus request, of one endless body, of one object, from an HTTP request to the intake of a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction

from services.common.errors import (
    BadRequest,
    Conflict,
    ContentTooLarge,
    Gone,
    GridcastError,
    InsufficientStorage,
    PreconditionFailed,
)
from services.common.live.cutter import MAX_REPEAT_SECONDS
from services.common.live.initialisation import UnsupportedMedia
from services.common.store.live_store import LiveStream
from services.common.store.upload_store import InProgressUpload
from services.common.uploads.body import UploadBody
from services.common.uploads.cleanup import CleanupRunner, run_shielded
from services.common.uploads.limits import DiskSpaceMonitor, ShuttingDown
from services.common.uploads.locks import UploadLocks
from services.live.intake import Intake, IntakeRules, LimitReached, MediaChanged, extent_of, is_fenced_off, refusal
from services.live.live_events import LiveEvents
from services.live.publish_token import check_token, invalid_token
from services.live.publishers import PublisherKind, Turn, publisher_of, settle_turn, take_turn
from services.live.recordings import Recordings
from services.live.session import read_object
from services.live.stream_ending import StreamEnder
from services.live.stream_limits import StreamLimits
from services.live.stream_memory import StreamMemories
from services.live.stream_writer import LiveStores, StreamWriter
from services.live.tus_requests import COMPLETE, TusRequest

READ_IDLE_SECONDS = 1.0
"""How long a read waits for bytes before what came is made durable."""
BODY_STOP_SECONDS = 2.0
"""How long an endless body goes on at shutdown, or when its token has ended, until a fragment is complete."""
MAX_OBJECT_BYTES = 16 * 1024 * 1024
MISSING_OBJECT_SECONDS = 3.0
"""How long an object waits for the one in front of it."""
MISSING_TOLERANCE_SECONDS = Fraction(1, 4)
"""A smaller hole between two objects is one of the media."""
TURN_WAIT_SECONDS = 3.0
"""How long a request waits for the one before it at another replica."""
WRITER_POLL_SECONDS = 0.1
MEDIA_CHANGED = "media changed"
"""The reason of an end by an initialisation segment that needs more files than a stream may have."""

CheckTurn = Callable[[LiveStream, Turn], None]


@dataclass(slots=True)
class _Turns:
    """Requests of one stream in this process, one after another."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class LiveReceiver:
    """Receives the publishers of one process. `stopping` is set at shutdown."""

    def __init__(
        self,
        stores: LiveStores,
        locks: UploadLocks,
        events: LiveEvents,
        ender: StreamEnder,
        recordings: Recordings,
        disk_space: DiskSpaceMonitor,
        cleanup: CleanupRunner,
        rules: IntakeRules,
        stopping: asyncio.Event,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._stopping = stopping
        self._stores = stores
        self._locks = locks
        self._events = events
        self._ender = ender
        self._recordings = recordings
        self._disk_space = disk_space
        self._cleanup = cleanup
        self._rules = rules
        self._now = now
        self._memories = StreamMemories()
        self._turns: dict[str, _Turns] = {}

    async def find(self, stream_id: str, token: str | None) -> LiveStream:
        """Return the stream that a publisher may send to. Raises NotFound, Unauthorized, Forbidden, Gone where it was deleted."""
        stream = await self._ender.read(stream_id)
        check_token(token, stream.new.token_sha256, stream.new.token_expires_at, self._now())
        if stream.was_deleted:
            raise Gone("this stream was deleted; make another one")
        return stream

    async def tus_offset(self, stream: LiveStream, source: int | None) -> tuple[int, int | None]:
        """Return how many bytes of the source are durable, and its length where it has ended. Raises Gone, Conflict.

        Waits a moment for a writer that holds more bytes.
        """
        if stream.state != "ended":
            await self._wait_for_writer(stream)
        stream = await self._ender.read(stream.new.id)
        position = stream.position
        if source is not None and source != position.source:
            raise Conflict("another publisher has taken this stream")
        if stream.state == "ended":
            if stream.reason != COMPLETE:
                raise Gone("this stream has ended")
            return position.sender_offset, position.sender_offset
        return (position.sender_offset if publisher_of(stream) == f"tus/{position.source}" else 0), None

    async def receive_tus(self, stream: LiveStream, body: UploadBody, request: TusRequest, sid: str | None) -> int:
        """Receive bytes of a source that can be resumed. Returns how many are durable.

        With the last byte of the source the stream ends. The sender may repeat that last request where its answer was lost.
        Raises Conflict with the offset where another one is expected, Gone where the stream ended otherwise.
        """
        if stream.state != "ended":
            try:
                return await self._receive_source(stream, body, request, sid)
            except Gone:
                stream = await self._ender.read(stream.new.id)  # another process has ended it meanwhile
                if stream.state != "ended":
                    raise
        return request.replay(stream)

    async def _receive_source(self, stream: LiveStream, body: UploadBody, request: TusRequest, sid: str | None) -> int:
        async with self._open(stream, "tus", body, sid, check=request.check) as intake:
            received = request.offset
            while (piece := await body.read(READ_IDLE_SECONDS)) is not None:
                received += len(piece)
                if request.length is not None and received > request.length:
                    raise BadRequest("the body exceeds Upload-Length")
                await self._feed(intake, piece)
                if received != request.length:
                    self._check_not_expired(stream)
            if request.length == received:
                await self._ender.finish(intake.writer, COMPLETE)
                return received
            await intake.flush(keep_lease=False)
            durable = intake.writer.stored_position.sender_offset
            if durable == request.offset and received > durable:
                raise ContentTooLarge("a fragment of more than 3 MiB must be sent in one request")
            return durable

    async def begin_tus(self, stream: LiveStream, body: UploadBody) -> int:
        """Begin a source that can be resumed, without bytes. Returns its number. Raises Conflict, Gone."""
        if stream.state == "ended":
            raise Gone("this stream has ended")
        async with self._open(stream, "tus", body, None, anew=True) as intake:
            await intake.writer.release()
            return intake.writer.stored_position.source

    async def receive_body(self, stream: LiveStream, body: UploadBody, sid: str | None, *, ends: bool) -> None:
        """Receive one endless body: a source of its own. With `ends` its proper end is that of the stream."""
        if stream.state == "ended":
            raise Gone("this stream has ended")
        async with self._open(stream, "body", body, sid, anew=True) as intake:
            stop_at: float | None = None
            while (piece := await body.read(READ_IDLE_SECONDS)) is not None:
                await self._feed(intake, piece)
                if self._stopping.is_set() or self._is_expired(stream):
                    stop_at = stop_at or time.monotonic() + BODY_STOP_SECONDS
                    if intake.session.is_between_units or time.monotonic() >= stop_at:
                        self._check_not_expired(stream)
                        raise ShuttingDown
            if ends:
                await self._ender.finish(intake.writer, COMPLETE)
                return
            await intake.close_segment()
            await self._leave(intake.writer)

    async def receive_object(self, stream: LiveStream, body: UploadBody, sid: str | None) -> None:
        """Receive one object of a muxer: an initialisation segment, or complete fragments, or both.

        One that is there already changes nothing. Raises BadRequest for an empty or incomplete one, PreconditionFailed without an
        initialisation segment before it, Conflict for one that comes too late.
        """
        data = await _read_object(body)
        if stream.state == "ended":
            raise Gone("this stream has ended")
        if self._stopping.is_set():
            raise ShuttingDown
        deadline = time.monotonic() + MISSING_OBJECT_SECONDS
        is_last_attempt = False
        while not await self._place_object(stream, body, data, sid, is_last_attempt=is_last_attempt):
            await asyncio.sleep(WRITER_POLL_SECONDS)
            is_last_attempt = time.monotonic() >= deadline

    async def _place_object(
        self, stream: LiveStream, body: UploadBody, data: bytes, sid: str | None, *, is_last_attempt: bool
    ) -> bool:
        """Store an object; False where it has to wait for the one in front of it."""
        async with self._in_turn(stream), self._open(stream, "objects", body, sid, preempts=False) as intake:
            session = intake.session
            try:
                facts = read_object(data, session.init)
            except UnsupportedMedia as error:
                raise refusal(error, session.init) from None
            if facts.needs_init:
                raise PreconditionFailed("send the initialisation segment first")
            if not facts.is_complete:
                raise BadRequest("the object ends in the middle of a fragment")
            expected, epoch = session.expected, session.last_epoch
            if (
                not facts.changes
                and expected is not None
                and epoch is not None
                and facts.start is not None
                and facts.end is not None
            ):
                if 0 <= expected - facts.end <= MAX_REPEAT_SECONDS and facts.end > facts.start:
                    await intake.flush(keep_lease=False)
                    if facts.start < Fraction(epoch.base_time, epoch.timescale):
                        raise Conflict("this object comes too late: those behind it are stored")
                    return True
                if facts.start > expected + MISSING_TOLERANCE_SECONDS:
                    if not is_last_attempt:
                        await intake.flush(keep_lease=False)
                        return False
                    await intake.break_time()
            await intake.feed(data)
            await intake.flush(keep_lease=False)
            return True

    def _is_expired(self, stream: LiveStream) -> bool:
        return self._now() >= stream.new.token_expires_at

    def _check_not_expired(self, stream: LiveStream) -> None:
        """Raise Forbidden where the token has ended since the request began."""
        if self._is_expired(stream):
            raise invalid_token()

    async def _feed(self, intake: Intake, piece: bytes) -> None:
        self._disk_space.reserve(len(piece) or None)
        if piece:
            await intake.feed(piece)
        else:
            await intake.flush_if_due()

    @asynccontextmanager
    async def _open(
        self,
        stream: LiveStream,
        kind: PublisherKind,
        body: UploadBody,
        sid: str | None,
        *,
        anew: bool = False,
        preempts: bool = True,
        check: CheckTurn = lambda *_: None,
    ) -> AsyncIterator[Intake]:
        """Acquire a stream for a publisher, and begin its source. After an error what is complete is kept, and a full stream ended.

        `check` raises before the stream is acquired, so that a request that is refused changes nothing.
        """

        def take(stream: LiveStream) -> Turn:
            if stream.state == "ended":
                raise Gone("this stream has ended")
            turn = take_turn(stream, kind, self._now(), anew=anew)
            if turn.begins:  # one that is refused does not stop what another one has begun, nor finish it in its place
                check(stream, turn)
            return turn

        take(stream)
        if not preempts:
            await self._wait_for_writer(stream)
            stream = await self._recordings.finish_change(await self._ender.read(stream.new.id))  # stored meanwhile
            turn = take(stream)
            async with self._acquired(stream, kind, turn, body, sid, check) as intake:
                yield intake
            return
        async with AsyncExitStack() as held:
            async with self._in_turn(stream):  # who begins a source is not stopped before it is stored
                if self._locks.is_held(stream.new.id):
                    take(await self._ender.read(stream.new.id))
                await held.enter_async_context(self._locks.exclusive(stream.new.id, body))
                # What a request of this process has stored while it was stopped.
                stream = await self._ender.read(stream.new.id)
                take(stream)
                stream = await self._recordings.finish_change(stream)
                turn = take(stream)
                check(stream, turn)
                intake = await held.enter_async_context(self._acquired(stream, kind, turn, body, sid, check))
            yield intake

    @asynccontextmanager
    async def _acquired(
        self, stream: LiveStream, kind: PublisherKind, turn: Turn, body: UploadBody, sid: str | None, check: CheckTurn
    ) -> AsyncIterator[Intake]:
        open_writer = StreamWriter.open if turn.begins else StreamWriter.go_on
        writer = await open_writer(self._stores, stream, turn.publisher, body.abort)
        try:
            settled = settle_turn(turn, writer.stream)
            if settled != turn:
                writer.stream = await self._stores.live.set_publisher(stream.new.id, writer.fence, settled.publisher)
            check(writer.stream, settled)
            limits = StreamLimits.from_json(stream.new.limits_json)
            extent = extent_of(writer.stream, writer.stream.position)
            intake = Intake(
                writer,
                self._recordings,
                self._events,
                self._memories.get(stream.new.id, limits.speed, extent),
                self._rules,
                sid,
                body.abort,
                takes_renditions=kind != "objects",
            )
        except BaseException:
            await run_shielded(writer.release())
            await writer.close()
            raise
        try:
            if settled.begins:
                await intake.begin_source()
            yield intake
        except BaseException as error:
            await self._cleanup.run_after(error, self._save(intake, kind, error))
            raise
        await intake.writer.close()

    async def _save(self, intake: Intake, kind: PublisherKind, error: BaseException) -> None:
        """Make durable what came before an error. Never raises."""
        writer = intake.writer
        try:
            if isinstance(error, LimitReached):
                await self._ender.finish(writer, f"limit of {error.limit}")
                self._memories.forget(writer.stream.new.id)
            elif isinstance(error, MediaChanged) and _ends_by(error, kind, writer):
                await self._ender.finish(writer, MEDIA_CHANGED)
                self._memories.forget(writer.stream.new.id)
            elif isinstance(error, InsufficientStorage):
                # There is no room for what was not stored: the stream ends where the last flush has.
                await self._ender.end(writer.stream.new.id, "limit of storage", preempts=False)
            elif is_fenced_off(error) and not isinstance(error, (ShuttingDown, Conflict)):
                return
            elif kind == "body":
                await intake.close_segment()
                await self._leave(writer)
            else:
                await intake.save()
        except GridcastError:
            return
        finally:
            await writer.close()

    async def _leave(self, writer: StreamWriter) -> None:
        """Note that the publisher of an endless body has gone, so that the next one is not taken for a second one."""
        with suppress(GridcastError):  # it counts as active for a moment longer then
            await self._stores.live.set_publisher(writer.stream.new.id, writer.fence, "")

    async def _has_writer(self, stream: LiveStream) -> bool:
        state = await self._stores.uploads.get_info(stream.new.upload_id)
        return isinstance(state, InProgressUpload) and state.write_in_progress

    async def _wait_for_writer(self, stream: LiveStream) -> None:
        """Wait for the bytes that another replica is storing; one that is dead is not waited for longer than a moment."""
        deadline = time.monotonic() + TURN_WAIT_SECONDS
        while await self._has_writer(stream) and time.monotonic() < deadline:  # noqa: ASYNC110  # another process
            await asyncio.sleep(WRITER_POLL_SECONDS)

    @asynccontextmanager
    async def _in_turn(self, stream: LiveStream) -> AsyncIterator[None]:
        """Let requests of one stream in one after another."""
        turns = self._turns.setdefault(stream.new.id, _Turns())
        turns.waiting += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.waiting -= 1
            if not turns.waiting:
                del self._turns[stream.new.id]


def _ends_by(error: MediaChanged, kind: PublisherKind, writer: StreamWriter) -> bool:
    """Whether other media ends a stream that may have no more files. Objects may be those of a second rendition: ignored."""
    return writer.session.has_begun and not (kind == "objects" and error.is_rendition)


async def _read_object(body: UploadBody) -> bytes:
    """Read the whole body. Raises BadRequest for an empty one, ContentTooLarge."""
    data = bytearray()
    async for piece in body:
        data += piece
        if len(data) > MAX_OBJECT_BYTES:
            raise ContentTooLarge(f"an object of more than {MAX_OBJECT_BYTES} bytes")
    if not data:
        raise BadRequest("the object is empty")
    return bytes(data)
