"""One publisher of one stream: what its bytes add to the file, to the list of segments, and to what the next writer needs. Pure.

What a session has taken is either in the file, as complete fragments, or pending. From its position, its last epoch and its pending
bytes another process goes on, and the result is byte for byte that of one process.
"""

import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from services.common.live.cuts import Cut, CutterState
from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.initialisation import InitSegment, UnsupportedMedia, read_init
from services.common.live.segments import Epoch, Segment
from services.common.store.live_store import MAX_PENDING_BYTES, NO_RECORDING, LivePosition, Recording

_PENDING_HEAD = struct.Struct(">B?qqddq?B")
"""Form, whether the epoch goes on, sender's time at which the next fragment is due, last duration, seconds dropped, when the held
fragment arrived, where the last segment ends, whether a track had a gap, how many tracks follow with their ends."""
_TRACK_END = struct.Struct(">Iq")
_PENDING_FORM = 2
_FIRST_HEAD = struct.Struct(">B?qqdd")
_FIRST_FORM = 1
MAX_UNIT_BYTES = MAX_PENDING_BYTES - 128 * 1024
"""Bytes of an incomplete fragment that are acknowledged; the rest is room for an initialisation segment."""


@dataclass(frozen=True, slots=True)
class Step:
    """What some bytes of the sender have brought.

    `data` is to be appended to the file. `error` is why the bytes behind it are not taken: `refused`, which are not part of the
    position.
    """

    data: bytes = b""
    epochs: tuple[Epoch, ...] = ()
    segments: tuple[Segment, ...] = ()
    error: UnsupportedMedia | None = None
    refused: bytes = b""


class Session:
    """The sender's bytes from one position on. Must not be used after a step with an error, but for its position.

    Arguments:
        target: target duration in whole seconds.
        position: where the last writer has ended.
        last_epoch: the last epoch of the stream's last file, None where that has none.
        pending: what the last writer left pending.
        before: the file before the last one.

    Raises UnsupportedMedia where `pending` is damaged.

    """

    def __init__(
        self,
        target: int,
        position: LivePosition,
        last_epoch: Epoch | None,
        pending: bytes,
        before: Recording = NO_RECORDING,
    ) -> None:
        head, rest = _decode_pending(pending)
        continues = head.continues and last_epoch is not None
        self.last_epoch = last_epoch
        self._target = target
        self._before = before
        self._cutter = Cutter(target, position.offset, before.epochs, before.end_date)
        self._cutter.restore(
            CutterState(
                position.offset,
                position.last_segment + 1,
                position.open_segment if continues else None,
                Fraction(position.file_end, position.timescale),
                head.expected if continues else None,
                head.last_duration,
                position.dropped,
                head.dropped_seconds,
                head.track_ends,
                head.breaks,
                head.listed_end,
            ),
            last_epoch,
        )
        self._source = position.source
        self._reader = FragmentReader(read_init(last_epoch.init) if continues and last_epoch is not None else None)
        self._new_init = b""
        self._sender_offset = self._unit_end = position.sender_offset
        self._error: UnsupportedMedia | None = None
        for unit in self._reader.feed(rest):
            self._take(unit, head.held_at)

    @property
    def init(self) -> InitSegment | None:
        """The initialisation segment of what is sent now, None where none was sent yet."""
        return self._reader.init

    @property
    def held_bytes(self) -> int:
        """Bytes that are in memory and not in the file."""
        held = self._cutter.held
        return self._reader.pending_bytes + (len(held.data) if held is not None else 0)

    @property
    def is_between_units(self) -> bool:
        """Whether the sender's bytes end where a fragment or an initialisation segment does."""
        return not self._reader.pending_bytes

    @property
    def expected(self) -> Fraction | None:
        """The sender's time in seconds at which the next fragment is due, None where it begins an epoch."""
        expected, init = self._cutter.state.expected, self._reader.init
        return None if expected is None or init is None else Fraction(expected, init.timescale)

    @property
    def seconds(self) -> float:
        """Seconds of media in the stream."""
        return self._before.milliseconds / 1000 + float(self._cutter.state.file_end)

    @property
    def has_begun(self) -> bool:
        """Whether there is a fragment for the file."""
        state = self._cutter.state
        is_open = state.open_segment is not None or self._cutter.held is not None
        return is_open or state.next_number - 1 > self._before.last_segment

    @property
    def position(self) -> LivePosition:
        """How far the stream is with `pending`."""
        state = self._cutter.state
        return LivePosition(
            offset=state.position,
            sender_offset=self._acknowledged()[0],
            last_segment=state.next_number - 1,
            open_segment=state.open_segment,
            file_end=state.file_end.numerator,
            timescale=state.file_end.denominator,
            source=self._source,
            dropped=state.dropped,
        )

    @property
    def pending(self) -> bytes:
        """What the next writer needs beside the position."""
        state = self._cutter.state
        head = _Head(
            state.expected is not None,
            state.expected or 0,
            state.last_duration,
            state.dropped_seconds,
            self._cutter.held_at,
            state.listed_end,
            state.breaks,
            state.track_ends,
        )
        return _encode_pending(self._acknowledged()[1], head)

    def begin_source(self) -> Step:
        """Begin with another sender, or with the same one from its start: what the last one left incomplete is dropped."""
        cut = self._cutter.begin_source()
        self._reader = FragmentReader()
        self._source += 1
        self._new_init = b""
        self._sender_offset = self._unit_end = 0
        return Step(cut.data, cut.epochs, cut.segments)

    def break_time(self) -> Step:
        """Begin an epoch with the next fragment, whatever its time is: media is missing in front of it."""
        cut = self._cutter.begin_source()
        self._new_init = b"" if self._reader.init is None else self._reader.init.data
        return Step(cut.data, cut.epochs, cut.segments)

    def feed(self, data: bytes, now: float) -> Step:
        """Take bytes that arrived at `now`, in seconds since 1970."""
        cuts: list[Cut] = []
        self._error = None
        offset_before = self._sender_offset
        self._sender_offset += len(data)
        units_taken = False
        try:
            for unit in self._reader.feed(data):
                cuts.append(self._take(unit, now))
                self._unit_end = self._sender_offset - self._reader.pending_bytes
                units_taken = True
        except UnsupportedMedia as error:
            # Its traceback has frames that hold this session: a cycle that would keep the sender's bytes until it is collected.
            self._error = error.with_traceback(None)
            rest = (self._unit_end, b"") if units_taken else (offset_before, self._reader.pending_before)
            self._refused_rest = rest
        return Step(
            b"".join(cut.data for cut in cuts),
            tuple(epoch for cut in cuts for epoch in cut.epochs),
            tuple(segment for cut in cuts for segment in cut.segments),
            self._error,
            b"" if self._error is None else data[self._refused_rest[0] - offset_before :],
        )

    def without_init(self) -> "Session":
        """Return a session of a file without a fragment that goes on at the refused bytes: with any initialisation segment."""
        offset, rest = self._refused_rest
        position = replace(self.position, sender_offset=offset)
        return Session(self._target, position, None, _encode_pending(rest), self._before)

    def close_file(self) -> Step:
        """Close what is open, because what follows goes into another file. `pending` is for `pending_of_next` then."""
        step = self.end()
        self._new_init = b""
        return step

    def end(self) -> Step:
        """Close what is open: the stream, or its sender, has ended. An incomplete fragment is dropped."""
        cut = self._cutter.end()
        self._note_epochs(cut)
        return Step(cut.data, cut.epochs, cut.segments)

    def _take(self, unit: InitSegment | Fragment, now: float) -> Cut:
        if isinstance(unit, InitSegment):
            cut = self._cutter.set_init(unit)
            self._note_epochs(cut)  # of the one before: a fragment that was held may have begun it now
            self._new_init = unit.data if self._cutter.state.expected is None else b""
        else:
            cut = self._cutter.add(unit, now)
            self._note_epochs(cut)
        held = self._cutter.held
        if held is not None and len(held.data) > MAX_UNIT_BYTES:
            raise UnsupportedMedia(f"a fragment without durations of more than {MAX_UNIT_BYTES} bytes")
        return cut

    def _note_epochs(self, cut: Cut) -> None:
        if cut.epochs:
            self.last_epoch = cut.epochs[-1]
            self._new_init = b""

    def _acknowledged(self) -> tuple[int, bytes]:
        """How many bytes of the sender are taken, and what the next reader has to be fed of them."""
        held = self._cutter.held
        lead = self._new_init + (b"" if held is None else held.data)
        if self._error is not None:
            offset, rest = self._refused_rest
            return offset, lead + rest
        rest = self._reader.pending
        excess = len(lead) + len(rest) - MAX_UNIT_BYTES
        if excess <= 0:
            return self._sender_offset, lead + rest
        if excess > self._reader.pending_box_bytes:
            return self._unit_end, lead
        return self._sender_offset - excess, lead + rest[: len(rest) - excess]


class _Head(NamedTuple):
    """What is in front of the pending bytes; `listed_end` None where the form does not say it."""

    continues: bool = False
    expected: int = 0
    last_duration: int = 0
    dropped_seconds: float = 0.0
    held_at: float = 0.0
    listed_end: int | None = None
    breaks: bool = False
    track_ends: tuple[tuple[int, int], ...] = ()


_NO_HEAD = _Head()


def pending_of_next(pending: bytes) -> bytes:
    """Return what the first writer of another file needs of what that of the file before it has left (`Session.close_file`)."""
    return _encode_pending(_decode_pending(pending)[1])


def _encode_pending(rest: bytes, head: _Head = _NO_HEAD) -> bytes:
    *fields, listed_end, breaks, track_ends = head
    packed = _PENDING_HEAD.pack(_PENDING_FORM, *fields, listed_end or 0, breaks, len(track_ends))
    return packed + b"".join(_TRACK_END.pack(*end) for end in track_ends) + rest


def _decode_pending(pending: bytes) -> tuple[_Head, bytes]:
    """Return the head, and what a reader has to be fed."""
    if not pending:
        return _Head(), b""
    try:
        if pending[0] == _FIRST_FORM:
            return _Head(*_FIRST_HEAD.unpack_from(pending)[1:]), pending[_FIRST_HEAD.size :]
        if pending[0] == _PENDING_FORM:
            *fields, count = _PENDING_HEAD.unpack_from(pending)[1:]
            body = _PENDING_HEAD.size + count * _TRACK_END.size
            ends = tuple(_TRACK_END.iter_unpack(pending[_PENDING_HEAD.size : body]))
            return _Head(*fields)._replace(track_ends=ends), pending[body:]
    except struct.error:
        pass
    raise UnsupportedMedia("what the last writer left pending cannot be read")


class ObjectFacts(NamedTuple):
    """What is in an object: when its media begins and ends, in seconds of the sender, None where it has none.

    `needs_init`: it has fragments, and no initialisation segment came before them. `changes`: it has an initialisation segment of
    another description.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    is_complete: bool = True
    needs_init: bool = False
    changes: bool = False


def read_object(data: bytes, init: InitSegment | None) -> ObjectFacts:
    """Return what is in an object that follows this initialisation segment. Raises UnsupportedMedia."""
    if init is None and not _begins_with_init(data):
        return ObjectFacts(needs_init=True)
    start: Fraction | None = None
    end: Fraction | None = None
    changes = False
    reader = FragmentReader(init)
    for unit in reader.feed(data):
        if isinstance(unit, InitSegment):
            changes = changes or (init is not None and unit.description != init.description)
            init = unit
        elif init is not None and (main := unit.track(init.main_track)) is not None:
            begin = Fraction(main.start or 0, init.timescale)
            start = begin if start is None else start
            end = begin + Fraction(main.duration, init.timescale)
    return ObjectFacts(start, end, not reader.pending_bytes, changes=changes)


def _begins_with_init(data: bytes) -> bool:
    """Whether a `moov` comes before the first fragment."""
    moov, moof = data.find(b"moov"), data.find(b"moof")
    return moof < 0 or 0 <= moov < moof
