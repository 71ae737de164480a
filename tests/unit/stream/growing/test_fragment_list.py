"""The list of a fragmented file that grows: segments are ranges of it, whatever of it is there."""

import asyncio

import m3u8
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.stream.growing.fragment_list import TARGET_SECONDS, FragmentList, UnlistedMedia
from tests.support.fragmented_mp4 import AUDIO, VIDEO, box, fragment, init

INIT = init()


def advance(found: FragmentList, data: bytes, available: int, *, is_complete: bool = False) -> None:
    async def read(position: int, size: int) -> bytes:
        assert position + size <= available, "what is not there is not read"
        return data[position : position + size]

    asyncio.run(found.advance(read, available, is_complete=is_complete))


def listed(data: bytes) -> FragmentList:
    found = FragmentList()
    advance(found, data, len(data), is_complete=True)
    assert found.has_ended
    return found


def fragments(*lengths: float, keys: str = "") -> bytes:
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    marks = keys or "k" * len(lengths)
    pieces = zip(starts, lengths, marks, strict=True)
    return b"".join(fragment(start, seconds, key=mark == "k") for start, seconds, mark in pieces)


def test_segments_are_ranges_of_the_file() -> None:
    data = INIT + box(b"free", bytes(9)) + fragments(1, 2, 1, 1, 5, 1)
    found = listed(data)
    assert found.init_size == len(INIT)
    assert [segment.seconds for segment in found.segments] == [4, 6, 1]
    first, *_, last = found.segments
    assert data[first.offset + 4 : first.offset + 8] == b"moof"
    assert last.offset + last.size == len(data)
    text = found.render("stream")
    playlist = m3u8.loads(text)
    assert (playlist.playlist_type, playlist.target_duration, playlist.is_endlist) == ("event", TARGET_SECONDS, True)
    assert playlist.segment_map[0].byterange == f"{len(INIT)}@0"
    assert [segment.byterange for segment in playlist.segments] == [f"{s.size}@{s.offset}" for s in found.segments]
    assert {segment.uri for segment in playlist.segments} == {"stream"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (fragments(4, 4, keys="k-"), [8]),
        (fragments(4, 4, 4, keys="k--"), [8, 4]),
        (fragments(10, 10), [10, 10]),
        (b"".join(fragment(at, 3, durations=False) for at in (0, 3, 6)), [6, 3]),
        (fragment(0, 5, tracks=(VIDEO,)) + fragment(0, 5, tracks=(AUDIO,)) + fragment(5, 5, tracks=(VIDEO,)), [5, 5]),
        (b"", []),
    ],
    ids=["no key", "too long without a key", "long", "no durations", "tracks apart", "no fragment"],
)
def test_where_segments_begin(data: bytes, expected: list[float]) -> None:
    assert [segment.seconds for segment in listed(INIT + data).segments] == expected


@given(st.lists(st.integers(0, 2500), max_size=6), st.lists(st.integers(1, 10), min_size=1, max_size=6))
def test_a_list_that_grows_only_appends(steps: list[int], lengths: list[int]) -> None:
    data = INIT + fragments(*lengths)
    found, before = FragmentList(), ""
    for available in sorted({min(step, len(data)) for step in steps}):
        advance(found, data, available)
        assert not found.has_ended
        if found.segments:  # there is no list before
            assert found.render("stream").startswith(before)
            before = found.render("stream")
    advance(found, data, len(data), is_complete=True)
    assert found.render("stream") == listed(data).render("stream")
    assert found.render("stream").startswith(before)
    assert sum(segment.seconds for segment in found.segments) == sum(lengths)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1aE\xdf\xa3" + bytes(100), "middle of a box"),
        (INIT + fragments(11), "more than 10 s"),
        (fragments(1), "before the initialisation"),
        (INIT + box(b"mdat", bytes(9)), "without a fragment"),
        (INIT + fragments(1)[:-1], "middle of a box"),
        (INIT + bytes(3), "middle of a box"),
        (INIT + (1 << 30).to_bytes(4, "big") + b"moof" + bytes(20), "middle of a box"),
        (box(b"moov", bytes(70_000)), "moov of 70008 bytes"),
        (box(b"ftyp", b"isom") + box(b"moov", bytes(8)), "track|box|moov"),
    ],
)
def test_what_has_no_list(data: bytes, reason: str) -> None:
    with pytest.raises(UnlistedMedia, match=reason):
        listed(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_listed_or_refused(data: bytes) -> None:
    for start in (b"", INIT, INIT + fragments(1)):
        try:
            listed(start + data)
        except UnlistedMedia:
            continue
