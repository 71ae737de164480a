"""A session: what it takes is in the file or pending, and another process goes on from there with the same result."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.live.initialisation import IncompatibleInit, UnsupportedMedia
from services.common.live.segments import Epoch, Segment
from services.common.store.live_store import MAX_PENDING_BYTES, NO_RECORDING, LivePosition, Recording
from services.live.session import MAX_UNIT_BYTES, Session, Step, pending_of_next
from tests.support.fragmented_mp4 import AUDIO, VIDEO, box, fragment, init

HEADER_BYTES = 1000
NOW = 1_800_000_000.0
START = LivePosition(HEADER_BYTES)


class Stored:
    """What the writers of a stream have stored, and the session of the current one."""

    def __init__(self, target: int = 2) -> None:
        self.file = b""
        self.epochs: list[Epoch] = []
        self.segments: list[Segment] = []
        self.target = target
        self.session = Session(target, START, None, b"")
        self.position, self.pending = START, b""

    def take(self, step: Step) -> Step:
        """Store what a step has brought."""
        self.file += step.data
        self.epochs += step.epochs
        self.segments += step.segments
        self.position, self.pending = self.session.position, self.session.pending
        assert self.position.offset == HEADER_BYTES + len(self.file)
        assert len(self.pending) <= MAX_PENDING_BYTES
        return step

    def feed(self, data: bytes) -> Step:
        """Feed bytes of the sender."""
        return self.take(self.session.feed(data, NOW))

    def restart(self) -> None:
        """Another process goes on with what is stored."""
        epoch = self.epochs[-1] if self.epochs else None
        self.session = Session(self.target, self.position, epoch, self.pending)
        assert self.session.position == self.position
        assert self.session.pending == self.pending

    def outcome(self) -> tuple[bytes, list[Segment], list[Epoch]]:
        """End, and return all that is stored."""
        self.take(self.session.end())
        return self.file, self.segments, self.epochs


STEP = st.tuples(
    st.sampled_from([0.2, 0.5, 1, 1.96, 2, 3]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 0, 0.3, 3, -0.5, -100, 5000]),
    st.sampled_from(["av", "av", "av", "v", "a", "init", "other init", "late audio", "index"]),
    st.sampled_from([True, True, True, False]),
)


def sent_bytes(steps: Sequence[tuple[float, bool, float, str, bool]]) -> bytes:
    """The bytes of a sender that does these things."""
    sent, at = init(), 0.0
    for length, key, jump, what, durations in steps:
        at = max(0.0, at + jump)
        if what == "init":
            sent += init()
        elif what == "other init":  # the same tracks, so it may follow
            sent += init().replace(b"iso6mp41", b"iso6dash")
        elif what == "late audio":
            sent += fragment(at, length, key=key, durations=durations, audio_offset=1.5)
            at += length
        elif what == "index":
            sent += box(b"styp", b"msdh") + box(b"sidx", bytes(32))
        else:
            tracks = {"av": (VIDEO, AUDIO), "v": (VIDEO,), "a": (AUDIO,)}[what]
            sent += fragment(at, length, key=key, tracks=tracks, durations=durations)
            at += length
    return sent


@given(steps=st.lists(STEP, max_size=14), cuts=st.lists(st.floats(0, 1), max_size=8), target=st.sampled_from([1, 2, 6]))
def test_any_number_of_processes_make_the_file_of_one(
    steps: list[tuple[float, bool, float, str, bool]], cuts: list[float], target: int
) -> None:
    sent = sent_bytes(steps)
    whole, parts = Stored(target), Stored(target)
    whole.feed(sent)
    places = sorted({round(cut * len(sent)) for cut in cuts} | {0, len(sent)})
    for begin, end in itertools.pairwise(places):
        assert parts.position.sender_offset == begin
        parts.feed(sent[begin:end])
        parts.restart()
    assert parts.position == whole.position
    assert parts.outcome() == whole.outcome()


def test_a_cut_at_every_byte_changes_nothing() -> None:
    sent = init() + fragment(7, 1) + fragment(8, 1, key=False) + fragment(9, 1, durations=False) + fragment(10, 1)
    whole = Stored()
    whole.feed(sent)
    expected = whole.outcome()
    for place in range(0, len(sent), 7):
        parts = Stored()
        parts.feed(sent[:place])
        parts.restart()
        parts.feed(sent[place:])
        assert parts.outcome() == expected


def test_another_source_begins_an_epoch_also_where_its_init_is_equal_and_its_writer_dies_at_once() -> None:
    stored = Stored()
    stored.feed(init() + fragment(0, 2) + fragment(2, 1))
    stored.take(stored.session.begin_source())
    assert len(stored.segments) == 2
    stored.restart()
    stored.feed(init()[:50])
    stored.restart()
    stored.feed(init()[50:])
    stored.restart()
    stored.feed(fragment(0, 2))
    assert stored.position.source == 1
    _, segments, epochs = stored.outcome()
    assert [(segment.epoch, segment.start / 90_000) for segment in segments] == [(0, 0), (0, 2), (1, 3)]
    assert len(epochs) == 2


def test_media_that_is_missing_makes_an_epoch() -> None:
    stored = Stored()
    stored.feed(init() + fragment(0, 1))
    stored.take(stored.session.break_time())
    stored.restart()
    stored.feed(fragment(2, 1))
    _, segments, epochs = stored.outcome()
    assert [(segment.epoch, segment.start / 90_000) for segment in segments] == [(0, 0), (1, 1)]
    assert epochs[1].base_time == 180_000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (box(b"abcd"), "a box of type abcd"),
        (b"\x00\x00\x00\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff", "mdat without a moof"),
        (init(audio=False), "other tracks"),
        (box(b"moof", b"") + box(b"mdat"), "a fragment without samples"),
    ],
)
def test_what_is_refused_is_not_part_of_the_position_and_what_came_before_is(bad: bytes, message: str) -> None:
    stored = Stored()
    good = init() + fragment(0, 1) + fragment(1, 1)
    step = stored.feed(good + bad + fragment(2, 1))
    assert step.error is not None
    assert message in str(step.error)
    assert len(step.segments) == 1
    assert stored.position.sender_offset == len(good)
    stored.restart()
    stored.feed(fragment(2, 2))
    assert len(stored.outcome()[1]) == 2


def test_bytes_that_were_acknowledged_stay_so_where_the_next_ones_are_refused() -> None:
    stored = Stored()
    sent = init() + fragment(0, 1) + box(b"moof", b"")
    stored.feed(sent)
    assert stored.position.sender_offset == len(sent)
    assert stored.feed(box(b"moof")).error is not None
    assert stored.position.sender_offset == len(sent)
    stored.restart()


def test_an_init_behind_a_held_fragment_is_pending_although_that_one_begins_an_epoch_now() -> None:
    other = init().replace(b"iso6mp41", b"iso6dash")
    sent = init() + fragment(0, 0.2, durations=False) + other + fragment(0.2, 0.2, key=False) + fragment(0.4, 1)
    whole, parts = Stored(), Stored()
    whole.feed(sent)
    middle = len(sent) - len(fragment(0.4, 1)) - 10
    parts.feed(sent[:middle])
    parts.restart()
    parts.feed(sent[middle:])
    assert parts.outcome() == whole.outcome()
    assert len(parts.epochs) == 2


def test_another_description_is_named() -> None:
    stored = Stored()
    stored.feed(init() + fragment(0, 1))
    assert isinstance(stored.feed(init(audio=False)).error, IncompatibleInit)


def test_no_more_of_a_fragment_is_acknowledged_than_can_be_kept() -> None:
    big = fragment(0, 2, tracks=(VIDEO,), fill=MAX_UNIT_BYTES + 1000)
    stored = Stored()
    stored.feed(init() + big[:-10])
    assert 0 < stored.position.sender_offset < len(init() + big) - 10
    sent = init() + big
    stored.restart()
    stored.feed(sent[stored.position.sender_offset :])
    assert len(stored.outcome()[1]) == 1
    held = Stored()
    step = held.feed(init() + fragment(0, 2, tracks=(VIDEO,), fill=MAX_UNIT_BYTES, durations=False))
    assert "without durations" in str(step.error)


def test_pending_bytes_of_another_form_are_refused() -> None:
    for pending in (b"\x00", b"\x03" + bytes(60), b"\x01", b"\x02" + bytes(40)):
        with pytest.raises(UnsupportedMedia, match="pending"):
            Session(2, START, None, pending)


def test_a_position_tells_the_open_segment() -> None:
    stored = Stored(6)
    stored.feed(init() + fragment(0, 1) + fragment(1, 1))
    opened = stored.position.open_segment
    assert opened is not None
    assert (opened.number, opened.seconds, opened.size) == (0, 2, len(stored.file))
    assert replace(stored.position, open_segment=None).last_segment == -1


CHANGED = [
    init() + fragment(0, 2) + fragment(2, 2),
    init(size=(90, 160)) + fragment(0, 1) + fragment(1, 2),
    init(size=(320, 180)) + b"".join(fragment(at, 1, durations=False) for at in range(5, 9)),
]


@settings(deadline=None)
@given(st.lists(st.integers(30, 1500), min_size=1, max_size=8), st.booleans())
def test_any_cut_of_media_that_change_gives_the_same_files(cuts: list[int], restarts: bool) -> None:
    """What is refused are the bytes from the offset on that was acknowledged: the sender sends them again, or they are fed."""
    sent, end, files = b"".join(CHANGED), 0, [Stored()]
    before, epochs = NO_RECORDING, 0
    for size in itertools.cycle(cuts):
        if end == len(sent):
            break
        data, end = sent[end : end + size], min(len(sent), end + size)
        while data:
            stored = files[-1]
            acknowledged = stored.position.sender_offset
            step = stored.feed(data)
            assert stored.position.sender_offset >= acknowledged
            data = step.refused
            if step.error is None:
                continue
            assert isinstance(step.error, IncompatibleInit)
            stored.take(stored.session.close_file())
            epochs += len(stored.epochs)
            offset = stored.position.sender_offset
            assert data == sent[offset:end]
            before = Recording("", "", 1, epochs, stored.position.last_segment, 0, 0, NOW + 100 * len(files))
            files.append(following := Stored())
            following.position = replace(stored.position, offset=HEADER_BYTES, file_end=0, timescale=1)
            following.pending = pending_of_next(stored.pending)
            following.session = Session(2, following.position, None, following.pending, before)
            assert following.session.position.sender_offset == offset
        if restarts:
            stored = files[-1]
            epoch = stored.epochs[-1] if stored.epochs else None
            stored.session = Session(2, stored.position, epoch, stored.pending, before)
    assert len(files) == len(CHANGED)
    numbers, dates = [], []
    for stored, expected in zip(files, CHANGED, strict=True):
        alone = Stored()
        alone.feed(expected)
        assert stored.outcome()[0] == alone.outcome()[0]
        assert [one.duration for one in stored.segments] == [one.duration for one in alone.segments]
        numbers += [(one.number, one.epoch) for one in stored.segments]
        dates += [one.date for one in stored.epochs]
    assert numbers == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert dates == [NOW - 2, NOW + 100, NOW + 200], "no file has dates before the end of the one before it"


def test_descriptions_without_a_fragment_replace_each_other() -> None:
    stored = Stored()
    assert stored.feed(init() + init(size=(90, 160)) + fragment(0, 2)).error is not None
    assert not stored.session.has_begun
    stored.session = stored.session.without_init()
    assert stored.session.position.sender_offset == len(init())
    stored.feed(init(size=(90, 160)) + fragment(0, 2))
    assert stored.session.has_begun
    assert [epoch.init for epoch in stored.epochs] == [init(size=(90, 160))]
