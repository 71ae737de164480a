"""The store's port for time-coded messages of live streams: what was pushed while a stream was live, and where in its media.

A message lives as long as its stream. Every implementation is tested against this by the same contract tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.common.errors import Conflict, TooManyRequests
from services.common.store.live_store import NO_RECORDING, LiveState, Recording

MAX_MESSAGE_DATA_BYTES = 8 << 10
"""Of the data of one message, as JSON."""
MAX_MESSAGE_DATA_IN_ALL = 16 << 20
"""Of the data of all messages of one stream."""
MAX_MESSAGES_READ = 200
"""Messages that one call returns."""


class NotLive(Conflict):
    """409: nothing of the stream has come yet, so that a message has no place in it."""

    def __init__(self) -> None:
        super().__init__("this stream has not begun yet, so a message has no place in it")


class TooManyMessages(TooManyRequests):
    """429: the stream has as many messages, or as many bytes of them, as are kept."""

    def __init__(self) -> None:
        super().__init__("this stream has as many messages as are kept; push to its topic what need not be kept")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to add: `id` and `type` as of an event, `data_json` at most MAX_MESSAGE_DATA_BYTES.

    `milliseconds`: the place in the media that it belongs to; None for the one that is captured now.
    """

    id: str
    type: str
    data_json: str
    milliseconds: int | None = None


class MessagePlace(NamedTuple):
    """What messages are ordered by: media time in milliseconds from the start of the stream, then the number of the message."""

    milliseconds: int
    number: int


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A stored message. `epoch` is the one of its place, `date` when the media of that place was captured, since 1970."""

    id: str
    type: str
    data_json: str
    place: MessagePlace
    epoch: int
    date: float


class LiveMessages(Protocol):
    """Adds and reads messages. Raises ServiceUnavailable."""

    async def add_message(self, stream_id: str, message: NewMessage, limit: int) -> tuple[StoredMessage, bool]:
        """Store a message, and return it and whether it is new: one whose id is stored is returned as it is.

        It is durable then. A place behind the media that is stored is moved to its end. `limit`: messages of one stream. Raises
        NotFound where there is no such stream, NotLive, Gone where the stream has ended, TooManyMessages.
        """

    async def read_messages(
        self,
        stream_id: str,
        first: int,
        end: int | None = None,
        after: MessagePlace | None = None,
        limit: int = MAX_MESSAGES_READ,
    ) -> Sequence[StoredMessage]:
        """Return messages from `first` on and before `end`, both in milliseconds, in the order of their places, behind `after`."""


def first_place(first: int, after: MessagePlace | None) -> MessagePlace:
    """Return the place behind which messages are read: those from `first` on, in milliseconds, and behind `after`. Pure."""
    start = MessagePlace(first, -1)
    return start if after is None else max(after, start)


class EpochRange(NamedTuple):
    """The epochs of one file of a stream, from `first` to before `end`, and where in the stream that file begins."""

    first: int
    end: int
    milliseconds: int


def file_at(recordings: Sequence[Recording], epoch_count: int, place: int) -> EpochRange:
    """Return the file in which a place is; the last one that has an epoch where it is at the end of all. Pure."""
    found, before = None, NO_RECORDING
    for recording in recordings:
        if found is None or before.milliseconds <= place:
            found = EpochRange(before.epochs, recording.epochs, before.milliseconds)
        before = recording
    if found is None or (before.milliseconds <= place and before.epochs < epoch_count):
        return EpochRange(before.epochs, epoch_count, before.milliseconds)
    return found


def place_of(
    wanted: int | None,
    file_end: int,
    timescale: int,
    state: LiveState,
    silent_ms: float,
    target_seconds: int,
    file_begin_ms: int = 0,
) -> int:
    """Return the place of a message in milliseconds. Pure.

    `file_end` in ticks of `timescale` is where the stored media of the last file ends, and `file_begin_ms` where that begins. It
    grows by whole steps, so the media of this moment lies behind it by the time since the last one (`silent_ms`), which is a target
    duration at most, and none while the stream is interrupted.
    """
    end = file_begin_ms + file_end * 1000 // timescale
    if wanted is not None:
        return min(wanted, end)
    return end + (int(min(max(silent_ms, 0.0), target_seconds * 1000.0)) if state == "live" else 0)


def date_of(milliseconds: int, epoch_date: float, file_time: int, timescale: int) -> float:
    """Return when the media of a place in a file was captured: that of its epoch's start, and the time since. Pure."""
    return epoch_date + milliseconds / 1000 - file_time / timescale
