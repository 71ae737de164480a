"""Fragments by hand: durations and flags wherever they are stated, and every guard."""

import struct

import pytest

from services.common.containers.boxes import MAX_SAMPLES, MAX_TRACKS, MalformedBoxes, read_box
from services.common.containers.fragments import (
    TrackDefaults,
    TrackFragment,
    find_last_fragment,
    read_fragment,
    read_segment_index,
)

DEFAULTS = {1: TrackDefaults(1000, b"vide", 40, 100, 0x10000), 2: TrackDefaults(48_000, b"soun", 1024, 10, 0)}
NON_SYNC, SYNC = 0x10000, 0x2000000


def box(box_type: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + box_type + body


def full(box_type: bytes, version: int, flags: int, *words: int) -> bytes:
    return box(box_type, bytes([version]), flags.to_bytes(3, "big"), struct.pack(f">{len(words)}I", *words))


def moof(*tracks: bytes) -> bytes:
    return box(b"moof", full(b"mfhd", 0, 0, 1), *(box(b"traf", track) for track in tracks))


def test_samples_state_everything() -> None:
    runs = full(b"trun", 0, 0x701, 2, 0, 30, 500, SYNC, 50, 700, NON_SYNC)
    data = moof(full(b"tfhd", 0, 0x20000, 1) + full(b"tfdt", 1, 0, 1, 5) + runs)
    assert read_fragment(data, DEFAULTS) == (
        TrackFragment(1, (1 << 32) + 5, 80, 2, 1200, begins_with_sync_sample=True),
    )


@pytest.mark.parametrize(
    ("header", "run", "expected"),
    [
        (full(b"tfhd", 0, 0, 1), full(b"trun", 0, 0, 3), (120, 300, False)),
        (full(b"tfhd", 0, 0x38, 1, 20, 7, SYNC), full(b"trun", 0, 0, 3), (60, 21, True)),
        (full(b"tfhd", 0, 0, 1), full(b"trun", 0, 4, 3, SYNC), (120, 300, True)),
        (full(b"tfhd", 0, 3, 1, 0, 0, 9), full(b"trun", 0, 0x204, 1, SYNC, 11), (40, 11, True)),
        (full(b"tfhd", 0, 0, 1), full(b"trun", 0, 0x800, 2, 1, 2), (80, 200, False)),
    ],
    ids=["of the movie", "of the fragment", "first sample", "offset and description", "composition times"],
)
def test_defaults_apply_where_a_sample_states_nothing(
    header: bytes, run: bytes, expected: tuple[int, int, bool]
) -> None:
    (found,) = read_fragment(moof(header + full(b"tfdt", 0, 0, 7) + run), DEFAULTS)
    assert found.start == 7
    assert (found.duration, found.sample_bytes, found.begins_with_sync_sample) == expected


def test_tracks_and_runs_add_up_and_a_start_may_be_missing() -> None:
    video = full(b"tfhd", 0, 0, 1) + full(b"trun", 0, 4, 1, SYNC) + full(b"trun", 0, 0, 2)
    audio = full(b"tfhd", 0, 0, 2) + full(b"trun", 0, 0, 5)
    assert read_fragment(moof(video, audio), DEFAULTS) == (
        TrackFragment(1, None, 120, 3, 300, begins_with_sync_sample=True),
        TrackFragment(2, None, 5 * 1024, 5, 50, begins_with_sync_sample=True),
    )


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (box(b"mdat"), "no complete moof"),
        (moof(full(b"tfhd", 0, 0, 1))[:-1], "no complete moof"),
        (moof(full(b"tfhd", 0, 0, 9)), "unknown track 9"),
        (moof(full(b"trun", 0, 0, 1)), "without a header"),
        (moof(b""), "without a header"),
        (moof(full(b"tfhd", 0, 0, 1) + full(b"trun", 0, 0, MAX_SAMPLES + 1)), "samples"),
        (moof(full(b"tfhd", 0, 0, 1) + full(b"trun", 0, 0x100, 3, 1, 2)), "exceeds"),
        (moof(full(b"tfhd", 0, 0, 1) + full(b"trun", 0, 0, 1) * 65), "too many"),
        (moof(full(b"tfhd", 0, 8, 1)), "too short"),
        (moof(full(b"tfhd", 0, 0, 1) + full(b"tfdt", 1, 0, 1)), "too short"),
        (moof(*[full(b"tfhd", 0, 0, 1)] * (MAX_TRACKS + 1)), "tracks"),
    ],
)
def test_guards(data: bytes, fault: str) -> None:
    with pytest.raises(MalformedBoxes, match=fault):
        read_fragment(data, DEFAULTS)


def test_the_last_fragment_is_found_behind_bytes_that_look_like_one() -> None:
    last = moof(full(b"tfhd", 0, 0, 1) + full(b"tfdt", 0, 0, 500) + full(b"trun", 0, 0, 2))
    data = b"xx" + moof(full(b"tfhd", 0, 0, 1)) + last + box(b"mdat", b"a moof in the sound")
    (found,) = find_last_fragment(data, DEFAULTS)
    assert (found.start, found.duration) == (500, 80)
    assert find_last_fragment(b"moof" * 1000, DEFAULTS) == ()
    assert find_last_fragment(b"", DEFAULTS) == ()


def test_an_index_adds_up() -> None:
    data = full(b"sidx", 0, 0, 1, 1000, 7, 0, 2, 0x80000010, 500, 0, 32, 700, 0)
    found = read_box(data, 0, len(data))
    assert found is not None
    index = read_segment_index(data, found)
    assert (index.timescale, index.earliest, index.duration, index.referenced_bytes, index.segment_count) == (
        1000, 7, 1200, 48, 2)  # fmt: skip
    with pytest.raises(MalformedBoxes, match="exceeds"):
        read_segment_index(data, found._replace(end=found.end - 4))
