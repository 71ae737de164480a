"""Segments and epochs: contiguous in bytes and time, no longer than the target, continued over breaks of the sender."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.containers.fragments import read_fragment
from services.common.live.cuts import Cut
from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.initialisation import IncompatibleInit, InitSegment, UnsupportedMedia, read_init
from services.common.live.segments import Epoch, Segment
from tests.support.fragmented_mp4 import AUDIO, VIDEO, fragment, init

HEADER_BYTES = 1000
NOW = 1_800_000_000.0


class Stream:
    """A cutter and what it has given."""

    def __init__(self, target: int = 2, data: bytes = init()) -> None:
        self.cutter = Cutter(target, HEADER_BYTES)
        self.reader = FragmentReader()
        self.file = b""
        self.segments: list[Segment] = []
        self.epochs: list[Epoch] = []
        self.now = NOW
        self.has_holes = False
        self.feed(data)

    def feed(self, *pieces: bytes) -> "Stream":
        """Feed bytes of the sender."""
        for piece in pieces:
            for unit in self.reader.feed(piece):
                if isinstance(unit, InitSegment):
                    self.take(self.cutter.set_init(unit))
                else:
                    self.now += 1
                    self.take(self.cutter.add(unit, self.now))
        return self

    def take(self, cut: Cut) -> "Stream":
        """Keep what came."""
        self.file += cut.data
        self.segments += cut.segments
        self.epochs += cut.epochs
        return self

    def reconnect(self, data: bytes = init()) -> "Stream":
        """Another sender begins."""
        self.take(self.cutter.begin_source())
        self.reader = FragmentReader()
        return self.feed(data)

    def end(self) -> list[Segment]:
        """End and check what holds for every stream."""
        self.take(self.cutter.end())
        position, time = HEADER_BYTES, 0
        for number, segment in enumerate(self.segments):
            assert (segment.number, segment.offset) == (number, position)
            assert segment.start >= time
            assert self.has_holes or segment.start == time
            assert segment.size > 0
            position, time = position + segment.size, segment.start + segment.duration
        assert position == HEADER_BYTES + len(self.file) == self.cutter.position
        assert [epoch.number for epoch in self.epochs] == list(range(len(self.epochs)))
        dates = [segment.date for segment in self.segments]
        assert dates == sorted(dates)
        return self.segments


def seconds(segments: Iterable[Segment]) -> list[float]:
    """Their durations."""
    return [round(segment.seconds, 3) for segment in segments]


def starts_in_file(stream: Stream, track_id: int) -> list[float]:
    """Base times of the stored fragments of one track, in seconds."""
    tracks = read_init(init()).tracks
    reader = FragmentReader(read_init(init()))
    fragments = [unit for unit in reader.feed(stream.file) if isinstance(unit, Fragment)]
    found = [read_fragment(unit.data[unit.moof :], tracks) for unit in fragments]
    return [
        t.start / tracks[track_id].timescale for f in found for t in f if t.track_id == track_id and t.start is not None
    ]


def test_segments_are_closed_without_waiting_for_the_next_fragment() -> None:
    stream = Stream().feed(fragment(0, 1))
    assert stream.segments == []
    assert seconds(stream.feed(fragment(1, 1)).segments) == [2.0]


@pytest.mark.parametrize(
    ("fragments", "target", "expected"),
    [
        ([(1, True)] * 6, 2, [2, 2, 2]),
        ([(2, True)] * 3, 2, [2, 2, 2]),
        ([(0.5, True), (0.5, False), (0.5, False), (0.5, False)] * 2, 2, [2, 2]),
        ([(1.5, True)] * 3, 2, [1.5, 1.5, 1.5]),
        ([(0.5, True)] + [(0.5, False)] * 5 + [(0.5, True)] + [(0.5, False)] * 5, 2, [2, 1, 2, 1]),
        ([(5, True), (5, True)], 2, [5, 5]),
        ([(1, True)] + [(1, False)] * 5, 2, [2, 2, 2]),
        ([(1, True)] * 3, 1, [1, 1, 1]),
        ([(1.8, True), (0.9, False), (1.8, True)], 2, [1.8, 0.9, 1.8]),
    ],
)
def test_where_segments_end(fragments: list[tuple[float, bool]], target: int, expected: list[float]) -> None:
    stream, at = Stream(target), 0.0
    for length, key in fragments:
        stream.feed(fragment(at, length, key=key))
        at += length
    assert seconds(stream.end()) == expected


def test_the_file_begins_at_zero_whatever_the_sender_counts_from() -> None:
    stream = Stream().feed(fragment(5000, 2), fragment(5002, 2))
    assert [segment.start for segment in stream.end()] == [0, 180_000]
    assert starts_in_file(stream, VIDEO) == starts_in_file(stream, AUDIO) == [0, 2]
    assert stream.epochs[0].base_time == 5000 * 90_000


def test_a_sender_that_begins_again_makes_an_epoch_and_the_file_goes_on() -> None:
    stream = Stream().feed(fragment(0, 2), fragment(2, 1)).reconnect().feed(fragment(0, 2), fragment(2, 2))
    assert [(segment.epoch, segment.start / 90_000) for segment in stream.end()] == [(0, 0), (0, 2), (1, 3), (1, 5)]
    assert starts_in_file(stream, VIDEO) == [0, 2, 3, 5]


def test_what_lasts_longer_than_the_video_moves_the_next_epoch() -> None:
    stream = Stream().feed(fragment(0, 2, audio_offset=0.5)).reconnect().feed(fragment(0, 2))
    stream.has_holes = True  # 2.5 s are too long for the list
    assert starts_in_file(stream, VIDEO) == [0, 2.5]
    assert len(stream.end()) == 2


@pytest.mark.parametrize(("gap", "epochs"), [(0.5, 1), (1.0, 1), (1.5, 2), (100_000, 2), (-3, 1), (-1000, 2)])
def test_gaps_and_jumps_of_the_senders_time(gap: float, epochs: int) -> None:
    stream = Stream().feed(fragment(2000, 2), fragment(2002 + gap, 2))
    stream.has_holes = gap >= 0.5  # 2.5 s are too long for the list
    stream.end()
    assert len(stream.epochs) == epochs
    assert stream.cutter.dropped == (gap == -3)
    assert all(segment.start < 90_000 * 4 for segment in stream.segments)


def test_a_fragment_that_is_sent_again_is_dropped() -> None:
    stream = Stream().feed(fragment(0, 2), fragment(2, 2), fragment(2, 2), fragment(4, 2))
    assert seconds(stream.end()) == [2, 2, 2]
    assert stream.cutter.dropped == 1


def test_what_comes_before_the_first_key_frame_is_dropped_but_not_for_ever() -> None:
    """Row 10, and 11."""
    stream = Stream().feed(fragment(0, 1, key=False), fragment(1, 1))
    assert (stream.cutter.dropped, stream.epochs[0].base_time) == (1, 90_000)
    late = Stream().feed(*(fragment(at, 1, key=False) for at in range(30)), fragment(30, 2), fragment(32, 2))
    assert (seconds(late.end()), late.cutter.dropped) == ([2, 2], 30)
    with pytest.raises(UnsupportedMedia, match="no key frame within 30 s"):
        Stream().feed(*(fragment(at, 1, key=False) for at in range(31)))


def test_durations_that_are_not_stated_are_the_next_fragments_start() -> None:
    """Row 17."""
    stream = Stream().feed(*(fragment(at, 1, durations=False) for at in (0, 1, 2, 3)))
    assert seconds(stream.end()) == [2, 2]


def test_an_equal_init_changes_nothing_and_another_one_cannot_stand_in_the_file() -> None:
    stream = Stream().feed(fragment(0, 1), init(), fragment(1, 1))
    assert len(stream.epochs) == 1
    for other, is_rendition in ((init(audio=False), True), (init(codec=b"avc3"), False)):
        with pytest.raises(IncompatibleInit) as caught:
            stream.feed(other)
        assert caught.value.is_rendition == is_rendition
        assert ("-f hls" in str(caught.value)) == is_rendition, "what to use is said"
    assert Stream().reconnect(init(audio=False)).feed(fragment(0, 2, tracks=(VIDEO,))).segments


def test_a_fragment_of_audio_alone_goes_with_the_open_segment() -> None:
    alone = fragment(1, 1, tracks=(AUDIO,))
    stream = Stream().feed(alone, fragment(0, 1, tracks=(VIDEO,)), alone, fragment(1, 1))
    assert seconds(stream.end()) == [2]
    assert stream.cutter.dropped == 1
    assert stream.feed(fragment(2, 1, key=False), fragment(99, 1, tracks=(AUDIO,))).cutter.dropped == 2


def test_a_stream_of_audio_is_cut_by_time() -> None:
    """Row 16."""
    stream = Stream(2, init(video=False)).feed(*(fragment(at, 1, tracks=(AUDIO,)) for at in range(4)))
    assert seconds(stream.end()) == [2, 2]


def test_base_times_of_32_bits_that_do_not_suffice_are_refused() -> None:
    stream = Stream()
    stream.cutter.resume(Epoch(0, init(), 90_000, 0, 1 << 32, NOW), None, continues=False)
    with pytest.raises(UnsupportedMedia, match="version 0"):
        stream.feed(fragment(0, 1, version=0))


def resume(first: Stream, *, continues: bool) -> Stream:
    """Another process continues what is stored of a stream."""
    second = Stream()
    second.cutter = Cutter(2, HEADER_BYTES)
    second.now = first.now
    second.cutter.resume(first.epochs[-1], first.segments[-1], continues=continues)
    return second


def test_another_sender_at_another_replica_makes_an_epoch_behind_the_stored_segments() -> None:
    first = Stream().feed(fragment(0, 2), fragment(2, 2))
    second = resume(first, continues=False).feed(fragment(0, 2))
    second.take(second.cutter.end())
    (segment,) = second.segments
    assert (segment.number, segment.offset, segment.start, segment.epoch) == (2, first.cutter.position, 360_000, 1)


@given(
    lengths=st.lists(st.sampled_from([1, 1.96, 2]), min_size=2, max_size=8),
    stop=st.integers(0, 6),
    base=st.sampled_from([0, 1.111, 70_000]),
    audio=st.floats(-0.1, 0.1),
)
def test_the_same_sender_at_another_replica_goes_on_as_if_nothing_had_happened(
    lengths: list[float], stop: int, base: float, audio: float
) -> None:
    starts = [base + 1 + sum(lengths[:index]) for index in range(len(lengths))]
    pieces = [fragment(at, length, audio_offset=audio) for at, length in zip(starts, lengths, strict=True)]
    whole, first = Stream().feed(*pieces), Stream()
    sent = 0
    while sent < len(pieces) and len(first.segments) <= stop:
        first.feed(pieces[sent])
        sent += 1
    if not first.segments or first.segments[-1].offset + first.segments[-1].size != first.cutter.position:
        return  # the sender has to go on at the end of a segment
    second = resume(first, continues=True).feed(*pieces[sent:])
    whole.end()
    second.take(second.cutter.end())
    assert first.segments + second.segments == whole.segments
    assert (first.epochs + second.epochs, first.file + second.file) == (whole.epochs, whole.file)


STEP = st.tuples(
    st.floats(0.04, 3), st.booleans(), st.sampled_from([0, 0, 0, 0, 0.3, 3, -0.5, -100, 5000]), st.booleans()
)


@given(steps=st.lists(STEP, max_size=25), target=st.sampled_from([1, 2, 6]))
def test_any_stream_is_contiguous_and_within_the_target(
    steps: list[tuple[float, bool, float, bool]], target: int
) -> None:
    stream, at = Stream(target), 0.0
    stream.has_holes = True  # gaps that do not fit into the target
    for length, key, jump, reconnects in steps:
        if reconnects:
            stream.reconnect()
        at = max(0.0, at + jump)
        stream.feed(fragment(at, length, key=key))
        at += length
    segments = stream.end()
    assert len(segments) >= len(stream.epochs)
    longest = max((length for length, *_ in steps), default=0)
    assert all(int(segment.seconds + 0.5) <= max(target, int(longest + 1.5)) for segment in segments)
    video = starts_in_file(stream, VIDEO)
    assert all(later - earlier > -0.11 for earlier, later in itertools.pairwise(video))


def test_a_stream_of_ffmpeg(live_sample: Path) -> None:
    """Its second fragment begins later than the first one ends, by the priming of AAC."""
    stream = Stream(2, live_sample.read_bytes())
    assert seconds(stream.end()) == pytest.approx([2] * 6, abs=0.03)
    assert all(segment.is_key for segment in stream.segments)


def test_the_date_of_an_epoch_is_when_its_media_arrived() -> None:
    """Row 6: the file's time has no hole, and the dates have the one that there was."""
    stream = Stream().feed(fragment(0, 2), fragment(2, 2))
    stream.now += 60
    first, _, last = stream.feed(fragment(500, 2)).end()
    assert (first.date, last.date) == (NOW + 1 - 2, NOW + 63 - 2)
    assert last.start == 4 * 90_000


def test_the_last_duration_that_is_not_stated_is_the_one_before() -> None:
    """Row 17."""
    stream = Stream().feed(*(fragment(at, 1, durations=False) for at in (0, 1, 2, 2.5)))
    assert seconds(stream.end()) == [2, 1]


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_that_is_set_changes_no_date_within_an_epoch(step: float) -> None:
    """Row 7. Dates follow the media, from the start of the epoch on."""
    stream = Stream().feed(fragment(0, 2), fragment(2, 2))
    stream.now += step
    dates = [segment.date for segment in stream.feed(fragment(4, 2), fragment(6, 2)).end()]
    assert [date - dates[0] for date in dates] == pytest.approx([0, 2, 4, 6])


def test_a_clock_that_is_set_back_makes_no_date_of_another_epoch_go_back() -> None:
    """Row 7. `end` asserts that the dates are in order."""
    stream = Stream().feed(fragment(0, 2), fragment(2, 2))
    stream.now -= 3600
    stream.reconnect().feed(fragment(0, 2), fragment(2, 2))
    assert [segment.epoch for segment in stream.end()] == [0, 0, 1, 1]


def test_a_short_gap_in_audio_alone_begins_no_epoch() -> None:
    stream = Stream().feed(fragment(0, 2), fragment(2, 2, audio_offset=0.9), fragment(4, 2, audio_offset=0.9))
    stream.end()
    assert len(stream.epochs) == 1


@pytest.mark.parametrize(("distance", "length", "expected"), [(1.1, 1, [2.1, 2.2, 2.2]), (0.8, 0.7, [1.6, 1.6, 1.5])])
def test_gaps_between_fragments_are_part_of_the_durations(
    distance: float, length: float, expected: list[float]
) -> None:
    """Of the segment in front, where that waits for the next fragment, else of the one behind: nothing is left out."""
    stream = Stream().feed(*(fragment(number * distance, length) for number in range(6)))
    segments = stream.end()
    assert seconds(segments) == expected
    assert segments[-1].start + segments[-1].duration == stream.cutter.state.file_end * 90_000


def test_a_gap_that_would_make_a_segment_too_long_for_its_list_is_not_in_it() -> None:
    """The sum may be short; a duration above the target is never listed."""
    stream = Stream().feed(fragment(0, 2), fragment(2.9, 2), fragment(4.9, 2))
    stream.has_holes = True
    segments = stream.end()
    assert all(int(segment.seconds + 0.5) <= 2 for segment in segments)
    assert [segment.start / 90_000 for segment in segments] == pytest.approx([0, 2.4001, 4.9])


def test_the_last_segment_of_a_source_lasts_as_long_as_its_longest_track() -> None:
    stream = Stream().feed(fragment(0, 1, audio_offset=0.4)).reconnect().feed(fragment(0, 2))
    assert seconds(stream.end()) == [1.4, 2]
    assert starts_in_file(stream, VIDEO) == [0, 1.4]


@pytest.mark.parametrize(("gap", "epochs"), [(1.0, 1), (1.1, 2), (5.0, 2)])
def test_a_gap_in_audio_alone_begins_an_epoch(gap: float, epochs: int) -> None:
    """The picture goes on without a hole in the file, and the sound comes as late as it did."""
    stream = Stream().feed(fragment(0, 2), fragment(2, 2, audio_offset=gap), fragment(4, 2, audio_offset=gap))
    stream.end()
    assert len(stream.epochs) == epochs
    assert starts_in_file(stream, VIDEO) == [0, 2, 4]
    assert starts_in_file(stream, AUDIO) == pytest.approx([0, 2 + gap, 4 + gap])


@pytest.mark.parametrize("alone", [False, True])
def test_an_epoch_after_a_gap_in_audio_waits_for_a_key_frame(alone: bool) -> None:
    """Nothing is dropped, wherever the sound comes back."""
    stream = Stream().feed(fragment(0, 1), fragment(1, 1, tracks=(VIDEO,)), fragment(2, 1, tracks=(VIDEO,), key=False))
    if alone:
        stream.feed(fragment(3, 1, tracks=(AUDIO,)), fragment(3, 1, tracks=(VIDEO,), key=False))
    else:
        stream.feed(fragment(3, 1, key=False))
    stream.feed(fragment(4, 1, key=False), fragment(5, 1), fragment(6, 1))
    stream.end()
    assert [epoch.base_time / 90_000 for epoch in stream.epochs] == [0, 5]
    assert stream.cutter.dropped == 0


@pytest.mark.parametrize(
    ("begins", "expected"), [((2,), [2, 2, 2, 2, 2]), ((2, 1), [2, 2, 2, 2, 1, 2]), ((1,), [2, 2, 2, 1, 2])]
)
def test_while_the_picture_pauses_segments_are_cut_by_the_sound(begins: tuple[int, ...], expected: list[int]) -> None:
    """Row 16: nothing is dropped, and the picture goes on in the same epoch."""
    stream, at = Stream(), 0
    for length in begins:
        stream.feed(fragment(at, length))
        at += length
    stream.feed(*(fragment(at + second, 1, tracks=(AUDIO,)) for second in range(6)))
    assert sum(segment.seconds for segment in stream.segments) >= at + 6 - 2, "listed while it pauses"
    stream.feed(fragment(at + 6, 2))
    assert seconds(stream.end()) == expected
    assert (len(stream.epochs), stream.cutter.dropped) == (1, 0)
    assert starts_in_file(stream, AUDIO)[-7:] == list(range(at, at + 7))
    assert starts_in_file(stream, VIDEO)[-1] == at + 6
    assert [segment.is_key for segment in stream.segments][-1]


def test_sound_beside_a_picture_that_lasts_comes_with_the_next_segment() -> None:
    """Row 16, as ffmpeg sends it: one frame that lasts for the whole pause, then the sound of that time."""
    stream = Stream().feed(fragment(0, 2), fragment(2, 11, tracks=(VIDEO,)))
    stream.feed(*(fragment(at, 1, tracks=(AUDIO,)) for at in range(2, 13)), fragment(13, 2))
    assert seconds(stream.end()) == [2, 11, 2]
    assert (len(stream.epochs), stream.cutter.dropped) == (1, 0)
    assert starts_in_file(stream, AUDIO) == [0, *range(2, 14)]
    assert all(segment.is_key for segment in stream.segments)


def test_tracks_in_fragments_of_their_own_are_both_kept() -> None:
    stream = Stream()
    for at in (0, 2, 4):
        stream.feed(fragment(at, 2, tracks=(VIDEO,)), fragment(at, 2, tracks=(AUDIO,)))
    assert [round(segment.seconds, 3) for segment in stream.end()] == [2, 2, 2, 0]
    assert (len(stream.epochs), stream.cutter.dropped) == (1, 0)
    assert starts_in_file(stream, AUDIO) == starts_in_file(stream, VIDEO) == [0, 2, 4]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.5, 1, 1.96, 2, 3]), st.sampled_from(["av", "av", "v", "a", "late v", "late a"])),
        max_size=25,
    )
)
def test_whatever_track_pauses_segments_last_and_stay_within_the_target(steps: list[tuple[float, str]]) -> None:
    stream, at = Stream(), 0.0
    stream.has_holes = True  # where no track has anything for a moment
    tracks = {"av": (VIDEO, AUDIO), "v": (VIDEO,), "a": (AUDIO,)}
    for length, what in steps:
        if what == "late v":  # the sound of the same time comes first
            stream.feed(fragment(at, length, tracks=(AUDIO,)), fragment(at, length, tracks=(VIDEO,)))
        elif what == "late a":
            stream.feed(fragment(at, length, tracks=(VIDEO,)), fragment(at, length, tracks=(AUDIO,)))
        else:
            stream.feed(fragment(at, length, tracks=tracks[what]))
        at += length
    longest = max((length for length, _ in steps), default=0)
    for segment in stream.end():
        assert segment.duration > 0
        assert int(segment.seconds + 0.5) <= max(2, int(longest + 1.5))
