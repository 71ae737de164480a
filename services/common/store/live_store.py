"""The store's port for live streams: what is known of each, and where its segments are in its file.

A stream is an unfinished upload that is read before its commit (ADR 40); its bytes are written and read by the ports `upload_store`
and `growing_files`. The guarantees are written here; every implementation is tested against them by the same contract tests. All
times are those of the store's clock.

The order of a writer: blocks, then the offset of the upload (`set_offset` with `durable=True`: a crash must not undo it once the
position has passed it), then `advance`. What `advance` has not stored does not count:
neither for readers nor for the next writer, which goes on where the last `advance` ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from services.common.errors import TooManyRequests
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaInfo, MediaName
from services.common.store.limits import BLOCK_SIZE

LiveState = Literal["waiting", "live", "interrupted", "ended"]
"""`waiting` for its first segment, `live`, `interrupted`: no bytes for a while, or `ended`: nothing is added any more."""

MAX_PENDING_BYTES = 4 << 20
"""Bytes of an incomplete fragment that are kept for the next writer."""
MAX_SEGMENTS_READ = 5_000
"""Segments that one call returns."""
MAX_LISTED_STREAMS = 200
MAX_EPOCHS = 2_000
MAX_INIT_BYTES_IN_ALL = 4 << 20
"""Of the initialisation segments of all epochs of one stream: a reader has all of them in memory."""

MAX_RECORDINGS = 32
"""Files of one stream: one for each sample description that its publisher has gone on with (ADR 54)."""

DELETED = "deleted"
"""The reason of a stream that was thrown away: its record stays for a day, for its publisher alone."""

STREAM_TAKEN_OVER = "another writer has taken this stream over"


class TooManyEpochs(TooManyRequests):
    """429: a stream's senders have begun anew too often, or their initialisation segments are too large in all."""

    def __init__(self) -> None:
        super().__init__("this stream was interrupted and begun anew too often; end it and begin another one")


@dataclass(frozen=True, slots=True)
class NewStream:
    """What a stream is made of. `id` cannot be guessed, and is part of public addresses.

    `upload_id` is its unfinished upload, which holds its name. `token_sha256` is the digest of its publish token, in lower-case
    hex; the token ends at `token_expires_at`. `target` is the target duration and `grace` how long it may be interrupted, in
    seconds. With `takeover` a second publisher replaces the first one. `window` is the length of its default list in seconds,
    None for all of it. `limits_json` is the caller's own and returned unchanged.
    """

    id: str
    upload_id: str
    name: MediaName
    owner: str
    title: str
    target: int
    grace: float
    takeover: bool
    window: int | None
    token_sha256: str
    token_expires_at: datetime
    limits_json: str = "{}"


@dataclass(frozen=True, slots=True)
class LivePosition:
    """How far a stream is: where the next writer goes on.

    `offset` is where in the file the next fragment goes, `sender_offset` how many bytes of the current source are stored or
    pending. `last_segment` is the number of the last complete segment, -1 for none. `open_segment` are the fragments after it, as
    the segment that they would be, None for none. `file_end` is when the media ends in ticks of `timescale`, over all tracks.
    `source` counts senders that began anew. `dropped` counts fragments that were not taken.
    """

    offset: int
    sender_offset: int = 0
    last_segment: int = -1
    open_segment: Segment | None = None
    file_end: int = 0
    timescale: int = 1
    source: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of a stream that is complete while the stream goes on in another one.

    `upload_id`, `file_id` and `revision` as `NewStream` and `LiveStream` have them. `epochs`, `last_segment`, `bytes` and
    `milliseconds` count from the start of the stream to the end of this file. `end_date` is when its media ends, since 1970.
    """

    upload_id: str
    file_id: str
    revision: int
    epochs: int
    last_segment: int
    bytes: int
    milliseconds: int
    end_date: float


NO_RECORDING = Recording("", "", 0, 0, -1, 0, 0, 0.0)
"""What is before the first file."""


@dataclass(frozen=True, slots=True)
class NewRecording:
    """The file with which a stream goes on: its unfinished upload.

    `revision`, `milliseconds` and `end_date` are those of the file before it, as `Recording` has them. `pending` is what the next
    writer needs, as `LiveProgress` has it, and `publisher` whom that takes bytes from.
    """

    upload_id: str
    revision: int
    milliseconds: int
    end_date: float
    pending: bytes
    publisher: str


@dataclass(frozen=True, slots=True)
class LiveProgress:
    """What a writer adds in one step: epochs that began, segments that are complete, and the new position.

    `pending` are bytes of the source behind the last complete fragment, MAX_PENDING_BYTES at most.
    """

    position: LivePosition
    epochs: Sequence[Epoch] = ()
    segments: Sequence[Segment] = ()
    pending: bytes = b""


@dataclass(frozen=True, slots=True)
class LiveStream:
    """A stream as it is stored.

    `fencing_token` is that of the upload's writer who advanced it last. `publisher` is who that writer takes bytes from, as text
    that is compared and nothing else, empty for none. `epochs` hold their initialisation segments. `advanced_at` is when it got
    bytes last, and `ended_at` when it ended, for `reason`. `revision` is that of the file it has become, None where there is none.
    `file_id` is that of its bytes, as `MediaInfo.file_id` has it: a store may change it when another writer takes over.

    `recordings` are its files that are complete, apart from the last one: `position`, `revision`, `file_id` and `new.upload_id` are
    of that one, but for its numbers of segments, which go on. `first_fence` is to be added to the fencing tokens of its upload:
    those of a stream go on likewise.
    """

    new: NewStream
    state: LiveState
    reason: str
    fencing_token: int
    publisher: str
    position: LivePosition
    epochs: tuple[Epoch, ...]
    created_at: datetime
    started_at: datetime | None
    advanced_at: datetime | None
    ended_at: datetime | None
    revision: int | None
    file_id: str = ""
    recordings: tuple[Recording, ...] = ()
    first_fence: int = 0

    @property
    def before(self) -> Recording:
        """The file before the last one."""
        return self.recordings[-1] if self.recordings else NO_RECORDING

    @property
    def last_epochs(self) -> tuple[Epoch, ...]:
        """The epochs of the last file."""
        return self.epochs[self.before.epochs :]

    @property
    def files(self) -> tuple["LiveStream", ...]:
        """The stream with the upload of each file that it has become so far."""
        earlier = tuple(map(self._with, self.recordings))
        return earlier if self.revision is None else (*earlier, self)

    def in_file_of(self, epoch: int) -> "LiveStream":
        """Return the stream with the upload and the file that an epoch is in."""
        return next((self._with(one) for one in self.recordings if epoch < one.epochs), self)

    def _with(self, recording: Recording) -> "LiveStream":
        new = replace(self.new, upload_id=recording.upload_id)
        return replace(self, new=new, file_id=recording.file_id, revision=recording.revision)

    @property
    def was_deleted(self) -> bool:
        """Whether it was thrown away before it ended."""
        return self.state == "ended" and self.reason == DELETED and self.revision is None


class LiveStreamReader(Protocol):
    """Reads streams. Raises ServiceUnavailable.

    A stream leaves with the bytes of its file, the last one where it has several. One that has not become a file stays for a day
    after its upload has gone, without segments, so that clients learn how it ended.
    """

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        """Return a stream; None where there is none, or it was deleted."""

    async def find_file(self, stream: LiveStream) -> MediaInfo | None:
        """Return the file that a stream has become, under the name that it has now; of one of `files`, that one.

        None where its upload is not committed, or the file was deleted or replaced.
        """

    async def find_upload(self, stream: LiveStream, names: Sequence[MediaName]) -> str | None:
        """Return the id of a stream's unfinished upload that `assign_name` has given one of these names, None for none."""

    async def find_unended(self, name: MediaName) -> Sequence[LiveStream]:
        """Return streams that have not ended, and whose file was to have this name, from the oldest one on; without their epochs.

        At most MAX_LISTED_STREAMS.
        """

    async def list_streams(
        self,
        states: Sequence[LiveState] = (),
        *,
        owner: str | None = None,
        after: str = "",
        limit: int = MAX_LISTED_STREAMS,
    ) -> Sequence[LiveStream]:
        """Return streams ordered by id, beginning behind `after`; without their epochs. Of some states alone where given."""

    async def read_segments(self, stream_id: str, first: int, limit: int = MAX_SEGMENTS_READ) -> Sequence[Segment]:
        """Return complete segments from number `first` on, in order; none behind the `last_segment` of the position.

        They stay while the stream is there, also when it has ended.
        """


class LiveStreamWriter(Protocol):
    """Changes streams. Raises ServiceUnavailable. A call with a lower fencing token than the stored one raises Conflict."""

    async def create_stream(self, stream: NewStream) -> None:
        """Store a stream in the state `waiting`, its position behind the header.

        Raises ValueError where its id is taken, Gone where its upload is not there.
        """

    async def set_publisher(self, stream_id: str, fencing_token: int, publisher: str) -> LiveStream:
        """Note who publishes, and fence older writers off; return the stream. Raises Gone where it has ended or is deleted."""

    async def advance(self, stream_id: str, fencing_token: int, progress: LiveProgress) -> None:
        """Store what was added; it is durable and visible as a whole, or not at all.

        The state becomes `live` where there is a segment. Segments above the stored last one, which a writer left that did not come
        further, are replaced. Idempotent: after an unknown outcome (ServiceUnavailable) a writer repeats the call with the same
        progress, or acquires the upload again. The numbers of segments go on behind the stored last one, those of epochs likewise,
        from 0; `offset` and `last_segment` never go back. Raises ValueError otherwise, Gone where the stream has ended or is
        deleted, TooManyEpochs.
        """

    async def read_pending(self, stream_id: str) -> bytes:
        """Return the bytes that the last `advance` left pending."""

    async def set_state(
        self, stream_id: str, fencing_token: int, state: LiveState, reason: str = "", revision: int | None = None
    ) -> bool:
        """Change the state; False where it is that state already, has ended, or is deleted. What has ended has no pending bytes.

        A stream that ends without a revision, and not as DELETED, ends with the file before its last one, where there is one: the
        last one has nothing then, and is no part of it any more.
        """

    async def begin_recording(
        self, stream_id: str, fencing_token: int, upload_id: str, recording: NewRecording
    ) -> bool:
        """Go on in another file, behind the one of the upload `upload_id`, which is committed; older writers are fenced off.

        The position is behind the header of that file then, `last_segment`, `source`, `sender_offset` and `dropped` stay. False
        where the stream is in another file already. Raises Gone where it has ended or is deleted, or an upload is not there.
        """

    async def list_idle(self, states: Sequence[LiveState], seconds: float, limit: int) -> Sequence[LiveStream]:
        """Return streams in these states that got no byte for so long (that have existed for so long where they never got one).

        Without their epochs, the longest idle ones first.
        """

    async def delete_stream(self, stream_id: str) -> bool:
        """Delete what is stored of a stream: not its file, nor its upload. False where there was none."""

    async def count_streams(self, owner: str) -> int:
        """Return how many streams of an owner have not ended."""


class LiveStore(LiveStreamReader, LiveStreamWriter, Protocol):
    """Both sides."""


def complete_recording(stream: LiveStream, epoch_count: int, new: NewRecording) -> Recording:
    """Return the last file of a stream, which has `epoch_count` epochs, as it is once another one follows it. Pure."""
    position, before = stream.position, stream.before
    return Recording(
        stream.new.upload_id,
        stream.file_id,
        new.revision,
        epoch_count,
        position.last_segment,
        before.bytes + position.offset,
        new.milliseconds,
        new.end_date,
    )


def position_of_next(position: LivePosition) -> LivePosition:
    """Return where a stream goes on in another file. Pure."""
    return replace(position, offset=BLOCK_SIZE, open_segment=None, file_end=0, timescale=1)


def position_at_end(recordings: Sequence[Recording], position: LivePosition) -> LivePosition:
    """Return where a stream is at the end of the last of these files. Pure."""
    last = recordings[-1]
    before = recordings[-2] if len(recordings) > 1 else NO_RECORDING
    return replace(
        position,
        offset=last.bytes - before.bytes,
        last_segment=last.last_segment,
        open_segment=None,
        file_end=last.milliseconds - before.milliseconds,
        timescale=1000,
    )


def new_progress(last_segment: int, epoch_count: int, progress: LiveProgress) -> LiveProgress:
    """Return what of the progress is not stored yet. Raises ValueError where it does not go on behind what is stored.

    `last_segment` and `epoch_count` are stored. A call that is repeated brings segments and epochs that are: they never change.
    """
    if len(progress.pending) > MAX_PENDING_BYTES:
        raise ValueError(f"more than {MAX_PENDING_BYTES} pending bytes")
    segments = tuple(segment for segment in progress.segments if segment.number > last_segment)
    last = progress.position.last_segment
    if last < last_segment or [segment.number for segment in segments] != list(range(last_segment + 1, last + 1)):
        raise ValueError("segments that do not go on from the last stored one to the last one of the position")
    epochs = tuple(epoch for epoch in progress.epochs if epoch.number >= epoch_count)
    if [epoch.number for epoch in epochs] != list(range(epoch_count, epoch_count + len(epochs))):
        raise ValueError("epochs that do not go on from the last stored one")
    return replace(progress, segments=segments, epochs=epochs)
