"""Cuts fragments into segments and epochs, and gives each fragment its place and time in the file. Pure.

A segment is closed as soon as another fragment of the same length would make it longer than the target duration allows, so that a
regular stream's segments are listed without waiting for the next fragment (RFC 8216bis, 4.4.3.1). Where a key frame comes when the
segment is long enough, it begins the next one. A gap between two fragments belongs to the segment before it where that is still
open, else to the one behind it: the durations of a list add up to that of the file.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from services.common.containers.fragments import TrackFragment
from services.common.live.base_times import shift_base_times
from services.common.live.cuts import Cut, CutterState
from services.common.live.epoch_timeline import MAX_GAP_SECONDS, EpochTimeline, start_of
from services.common.live.fragment_reader import MAX_SKEW_SECONDS, Fragment
from services.common.live.initialisation import IncompatibleInit, InitSegment, UnsupportedMedia, read_init
from services.common.live.segments import Epoch, Segment

MAX_REPEAT_SECONDS = 10
"""Media that ends up to so long before what is there was sent again; older media is a sender whose time began anew."""
MIN_KEYED_SHARE = 0.75
"""Share of the target duration after which a key frame begins the next segment."""
MAX_DROPPED_SECONDS = 30
"""Media without any key frame that is dropped before the stream is refused."""


@dataclass(slots=True)
class _OpenSegment:
    offset: int
    start: int
    date: float
    is_key: bool
    size: int = 0
    duration: int = 0


class _Held(NamedTuple):
    """A fragment whose duration is the next one's start less its own."""

    fragment: Fragment
    main: TrackFragment
    at: float


class Cutter:
    """The segments of one live stream. `target` is the list's target duration in whole seconds.

    A stream that another replica has begun is continued from its last epoch and segment (`resume`). `dropped` counts fragments that
    were not taken: before the first key frame, or older than what is there. `first_epoch` is the number of the first epoch of the
    file, and no date in it is before `not_before`.
    """

    def __init__(self, target: int, first_offset: int, first_epoch: int = 0, not_before: float = 0.0) -> None:
        self.dropped = 0
        self._target = target
        self._first_epoch = first_epoch
        self._not_before = not_before
        self._position = first_offset
        self._next_number = 0
        self._init: InitSegment | None = None
        self._last_epoch: Epoch | None = None
        self._run: EpochTimeline | None = None
        self._file_end = Fraction(0)
        self._listed_end = 0
        self._dropped_seconds = 0.0
        self._open: _OpenSegment | None = None
        self._held: _Held | None = None

    @property
    def position(self) -> int:
        """Where in the file the next fragment goes."""
        return self._position

    @property
    def held(self) -> Fragment | None:
        """A complete fragment that is not in the file yet: its duration follows from the next one."""
        return None if self._held is None else self._held.fragment

    @property
    def held_at(self) -> float:
        """When the held fragment arrived, in seconds since 1970; 0 where there is none."""
        return 0.0 if self._held is None else self._held.at

    @property
    def state(self) -> CutterState:
        """What `restore` needs, apart from `held`."""
        run = self._run
        return CutterState(
            self._position,
            self._next_number,
            None if self._open is None or run is None else self._segment(self._open, run.epoch),
            self._file_end,
            None if run is None else run.expected,
            0 if run is None else run.last_duration,
            self.dropped,
            self._dropped_seconds,
            () if run is None else tuple(sorted(run.ends.items())),
            run is not None and run.breaks,
            self._listed_end,
        )

    def restore(self, state: CutterState, epoch: Epoch | None) -> None:
        """Go on where another cutter was, whose last epoch is given, None where it had none. Raises as `resume`."""
        self._position, self._next_number = state.position, state.next_number
        self._file_end = state.file_end
        self.dropped, self._dropped_seconds = state.dropped, state.dropped_seconds
        if epoch is None:
            return
        init = self._init = read_init(epoch.init)
        self._last_epoch = epoch
        self._listed_end = self._end_ticks(init) if state.listed_end is None else state.listed_end
        if state.expected is None:
            return
        self._run = EpochTimeline(
            init,
            epoch,
            _shifts(init, epoch),
            state.expected,
            state.last_duration,
            dict(state.track_ends),
            state.breaks,
        )
        if (opened := state.open_segment) is not None:
            self._open = _OpenSegment(
                opened.offset, opened.start, opened.date, opened.is_key, opened.size, opened.duration
            )

    def resume(self, epoch: Epoch, last: Segment | None, *, continues: bool) -> None:
        """Go on behind the last segment that is stored. Raises UnsupportedMedia for an epoch that `Cutter` has not made.

        `continues` says that the same sender goes on with the fragment after that segment: then its epoch goes on, and the result
        is that of a stream without a break. Else the next fragment begins an epoch.
        """
        init = self._init = read_init(epoch.init)
        self._last_epoch = epoch
        self._file_end, self._listed_end = Fraction(epoch.file_time, epoch.timescale), epoch.file_time
        if last is not None:
            self._listed_end = last.start + last.duration
            self._next_number = last.number + 1
            self._position = last.offset + last.size
            self._file_end = Fraction(last.start + last.duration, last.timescale)
            if continues and last.epoch == epoch.number:
                expected = last.start + last.duration - epoch.file_time + epoch.base_time
                self._run = EpochTimeline(init, epoch, _shifts(init, epoch), expected)

    def begin_source(self) -> Cut:
        """Close what is open; another sender, or the same one from its start, comes next: its time is another one."""
        cut = self.end()
        self._run = None
        if self._last_epoch is None:
            self._init = None  # nothing of it is in the file
        return cut

    def set_init(self, init: InitSegment) -> Cut:
        """Take the initialisation segment of what follows; an equal one changes nothing, since senders repeat it.

        Raises IncompatibleInit where its fragments cannot be part of the same file.
        """
        if self._init is not None and init.description != self._init.description:
            kinds = (init.tracks.keys(), bool(init.width))
            raise IncompatibleInit(is_rendition=kinds != (self._init.tracks.keys(), bool(self._init.width)))
        cut = Cut() if self._init is None or init.data == self._init.data else self.begin_source()
        self._init = init
        return cut

    def add(self, fragment: Fragment, now: float) -> Cut:
        """Take one complete fragment that arrived at `now`, in seconds since 1970. Raises UnsupportedMedia."""
        if self._init is None:
            raise UnsupportedMedia("a fragment before the initialisation segment")
        main = fragment.track(self._init.main_track)
        cut = self._release(self._init, main)
        if main is None:
            return _joined(cut, self._place_other(fragment))
        if not main.duration:
            self._held = _Held(fragment, main, now)
            return cut
        return _joined(cut, self._place(self._init, fragment, main, main.duration, now))

    def end(self) -> Cut:
        """Close what is open: the stream, or its sender, has ended."""
        cut = Cut() if self._init is None else self._release(self._init, None)
        return _joined(cut, Cut(segments=self._close_at_end()))

    def _release(self, init: InitSegment, following: TrackFragment | None) -> Cut:
        """Place the held fragment: `following` says how long it is, else it is as long as the one before."""
        held, self._held = self._held, None
        if held is None:
            return Cut()
        duration = self._run.last_duration if self._run is not None else 0
        step = start_of(following) - start_of(held.main) if following is not None else 0
        if 0 < step <= MAX_GAP_SECONDS * init.timescale:
            duration = step
        return self._place(init, held.fragment, held.main, duration, held.at)

    def _place(self, init: InitSegment, fragment: Fragment, main: TrackFragment, duration: int, now: float) -> Cut:
        start, run = start_of(main), self._run
        closed: tuple[Segment, ...] = ()
        epochs: tuple[Epoch, ...] = ()
        if run is not None and 0 <= run.expected - start - duration <= MAX_REPEAT_SECONDS * init.timescale:
            self.dropped += 1
            return Cut()
        gap = start - run.expected if run is not None else 0
        is_key = main.begins_with_sync_sample
        if run is not None and run.has_gap(fragment):
            run.breaks = True
        if (
            run is None
            or gap < -init.timescale // 10
            or min(gap, run.file_time(start) - run.others_end()) > MAX_GAP_SECONDS * init.timescale
            or (run.breaks and is_key)
        ):
            if not is_key:
                return self._drop(main, init)
            closed = self._close_at_end()
            run = self._run = self._start_run(init, fragment, start, now - duration / init.timescale)
            epochs, gap = (run.epoch,), 0
        elif self._open is not None and self._ends_before(self._open, run, main, duration):
            closed = self._close(run.file_time(start))
        self._dropped_seconds = 0.0
        opened = self._open
        if opened is None:
            begin = self._begin_of(run.file_time(start), duration, init)
            opened = self._open = _OpenSegment(self._position, begin, run.date(begin), is_key)
        elif not opened.duration:  # it began with another track
            opened.is_key = is_key
        run.expected = start + duration
        run.last_duration = duration
        opened.duration = run.file_time(run.expected) - opened.start
        data = self._append(run, opened, fragment)
        self._file_end = max(self._file_end, Fraction(opened.start + opened.duration, init.timescale))
        if self._is_too_long(opened.duration + duration, init):
            closed += self._close()
        return Cut(data, epochs, closed)

    def _place_other(self, fragment: Fragment) -> Cut:
        """Place a fragment without the main track: in the open segment, else in the next one.

        Where the main track has nothing for so long, the other tracks say where segments end.
        """
        run = self._run
        if run is None or self._is_far_from(run, fragment):
            self.dropped += 1
            return Cut()
        start = min(run.place(track.track_id, start_of(track)) for track in fragment.tracks)
        end = max(run.place(track.track_id, start_of(track) + track.duration) for track in fragment.tracks)
        opened, closed = self._open, tuple[Segment, ...]()
        run.breaks = run.breaks or run.has_gap(fragment)
        if opened is not None and start > opened.start and self._is_too_long(end - opened.start, run.init):
            opened.duration = max(opened.duration, run.others_end() - opened.start)
            closed, opened = self._close(), None
        if opened is None:
            begin = self._begin_of(start, end - start, run.init)
            self._open = opened = _OpenSegment(self._position, begin, run.date(begin), is_key=False)
        return Cut(self._append(run, opened, fragment), segments=closed)

    def _is_far_from(self, run: EpochTimeline, fragment: Fragment) -> bool:
        """Whether a fragment without the main track does not belong to the end of the file, nor goes on with its own track."""
        for track in fragment.tracks:
            start, timescale = start_of(track), run.init.tracks[track.track_id].timescale
            end = run.ends.get(track.track_id)
            goes_on = end is not None and abs(start - end) <= MAX_GAP_SECONDS * timescale
            moved = Fraction(start + run.shifts[track.track_id], timescale)
            if not goes_on and abs(moved - self._file_end) > MAX_SKEW_SECONDS:
                return True
        return False

    def _start_run(self, init: InitSegment, fragment: Fragment, start: int, date: float) -> EpochTimeline:
        """Begin an epoch with a fragment: its time goes on where the file ends, and dates do not go back."""
        earliest = min(Fraction(start_of(track), init.tracks[track.track_id].timescale) for track in fragment.tracks)
        moved = round((self._file_end - earliest) * init.timescale)
        previous = self._last_epoch
        if previous is not None:
            date = max(date, previous.date + (start + moved - previous.file_time) / previous.timescale)
        date = max(date, self._not_before)
        number = self._first_epoch if previous is None else previous.number + 1
        epoch = self._last_epoch = Epoch(number, init.data, init.timescale, start, start + moved, date)
        return EpochTimeline(init, epoch, _shifts(init, epoch), start)

    def _append(self, run: EpochTimeline, opened: _OpenSegment, fragment: Fragment) -> bytes:
        data = shift_base_times(fragment.data, fragment.moof, run.shifts)
        self._position += len(data)
        opened.size += len(data)
        run.note_ends(fragment)
        for track in fragment.tracks:
            end = start_of(track) + track.duration + run.shifts[track.track_id]
            self._file_end = max(self._file_end, Fraction(end, run.init.tracks[track.track_id].timescale))
        return data

    def _ends_before(self, opened: _OpenSegment, run: EpochTimeline, main: TrackFragment, duration: int) -> bool:
        """Whether a segment ends before the next fragment of the main track."""
        start = run.file_time(start_of(main))
        if not opened.duration and start <= opened.start:
            return False  # it has another track of the same time
        share = MIN_KEYED_SHARE if opened.is_key else MIN_KEYED_SHARE / 3
        is_keyed = main.begins_with_sync_sample and opened.duration >= share * self._target * run.init.timescale
        return is_keyed or self._is_too_long(start + duration - opened.start, run.init)

    def _is_too_long(self, ticks: int, init: InitSegment) -> bool:
        """Whether a segment of this length, rounded to whole seconds, exceeds the list's target."""
        return ticks >= (self._target + 0.5) * init.timescale

    def _longest(self, init: InitSegment) -> int:
        """Return the longest duration that is written as one within the list's target."""
        return int((self._target + 0.4999) * init.timescale)

    def _begin_of(self, start: int, duration: int, init: InitSegment) -> int:
        """Return where a segment begins, in the file's time: where the one before it ends, so that a gap is part of it.

        Where it would be too long with the gap for the list's target, it begins later: that much is missing in the list.
        """
        begin, end = max(self._listed_end, start - MAX_GAP_SECONDS * init.timescale), start + duration
        if begin >= start or not self._is_too_long(end - begin, init) or self._is_too_long(duration, init):
            return begin
        return min(start, max(begin, end - self._longest(init)))

    def _end_ticks(self, init: InitSegment) -> int:
        return round(self._file_end * init.timescale)

    def _close_at_end(self) -> tuple[Segment, ...]:
        """Close the last segment of an epoch: it lasts as long as its longest track."""
        return () if self._run is None else self._close(self._end_ticks(self._run.init))

    def _close(self, until: int = 0) -> tuple[Segment, ...]:
        """Close what is open. `until`, in the file's time, is when the media behind it begins, where that is known."""
        opened, self._open = self._open, None
        if opened is None or self._run is None:
            return ()
        # At least a tick: media of another track alone may lie behind what is listed already.
        opened.duration = max(1, opened.duration, min(until - opened.start, self._longest(self._run.init)))
        self._listed_end = opened.start + opened.duration
        segment = self._segment(opened, self._run.epoch)
        self._next_number += 1
        return (segment,)

    def _segment(self, opened: _OpenSegment, epoch: Epoch) -> Segment:
        return Segment(
            self._next_number,
            epoch.number,
            opened.offset,
            opened.size,
            opened.start,
            opened.duration,
            epoch.timescale,
            opened.date,
            opened.is_key,
        )

    def _drop(self, main: TrackFragment, init: InitSegment) -> Cut:
        self.dropped += 1
        self._dropped_seconds += main.duration / init.timescale
        if self._dropped_seconds > MAX_DROPPED_SECONDS:
            raise UnsupportedMedia(f"no key frame within {MAX_DROPPED_SECONDS} s")
        return Cut()


def _shifts(init: InitSegment, epoch: Epoch) -> dict[int, int]:
    """How far the base times of each track are moved: those of the epoch alone, so that another process moves them equally."""
    moved = Fraction(epoch.file_time - epoch.base_time, epoch.timescale)
    return {track_id: round(moved * track.timescale) for track_id, track in init.tracks.items()}


def _joined(first: Cut, second: Cut) -> Cut:
    return Cut(first.data + second.data, first.epochs + second.epochs, first.segments + second.segments)
