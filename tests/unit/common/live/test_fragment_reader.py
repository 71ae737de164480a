"""Reading fragments out of a byte stream: in pieces of any size; what is no fragmented MP4 is refused by its first bytes."""

import contextlib
import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.header import render_header
from services.common.live.initialisation import InitSegment, UnsupportedMedia, read_init
from services.common.live.segments import Segment
from tests.support.fragmented_mp4 import VIDEO, box, fragment, init

STREAM = init() + box(b"styp", b"msdh") + fragment(0, 1) + box(b"sidx", bytes(32)) + fragment(1, 1) + fragment(2, 1)


def read_all(*pieces: bytes) -> list[InitSegment | Fragment]:
    """Feed the pieces to a new reader."""
    reader = FragmentReader()
    return [unit for piece in pieces for unit in reader.feed(piece)]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_pieces_of_any_size_give_the_same_units(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert read_all(*pieces) == read_all(STREAM)


def test_a_fragment_keeps_the_boxes_in_front_but_no_index() -> None:
    first, *fragments = read_all(STREAM)
    assert isinstance(first, InitSegment)
    assert [unit.data for unit in fragments] == [
        box(b"styp", b"msdh") + fragment(0, 1),
        fragment(1, 1),
        fragment(2, 1),
    ]


@given(length=st.integers(0, len(STREAM)))
def test_what_is_consumed_ends_at_a_box_and_can_be_continued(length: int) -> None:
    reader = FragmentReader()
    units = list(reader.feed(STREAM[:length]))
    again = FragmentReader(reader.init)
    assert reader.consumed + reader.pending_bytes == length
    assert units + list(again.feed(STREAM[reader.consumed :])) == read_all(STREAM)


def test_the_initialisation_segment_says_what_is_in_the_stream() -> None:
    found = read_init(init())
    assert (found.main_track, found.timescale, found.width, found.height) == (VIDEO, 90_000, 160, 90)
    assert found.codecs[0] == "avc1.64000a"
    assert found.codecs[1].startswith("mp4a")


def test_descriptions_are_equal_where_fragments_can_stand_in_one_file() -> None:
    assert read_init(init()).description == read_init(box(b"ftyp", b"mp42") + init()[24:]).description
    assert read_init(init()).description != read_init(init(audio=False)).description
    assert read_init(init()).description != read_init(init(timescale=1000)).description


PLAIN_MOOV = init().replace(b"mvex", b"free")
REFUSED = [
    pytest.param(b"\x1aE\xdf\xa3" + bytes(40), "WebM", id="webm"),
    pytest.param(box(b"ftyp", b"isom") + box(b"mdat", bytes(9)), "mdat before moov", id="index-last"),
    pytest.param(PLAIN_MOOV, "not fragmented", id="not-fragmented"),
    pytest.param(init(codec=b"encv"), "track 1 is 'encv'", id="encrypted"),
    pytest.param(init(codec=b"vp08"), "track 1 is 'vp08'", id="vp8"),
    pytest.param(init(timescale=0), "timescale", id="timescale-0"),
    pytest.param(init() + fragment(0, 1, version=1)[:40], None, id="cut-off"),
    pytest.param(init() + box(b"mdat", bytes(9)), "without a moof", id="mdat-alone"),
    pytest.param(init() + fragment(0, 1)[: -8 - 200] + fragment(0, 1), "without its mdat", id="moof-twice"),
    pytest.param(init() + fragment(float(1 << 46), 1), "base time", id="base-time"),
    pytest.param(init() + fragment(0, 61), "more than 60 s", id="long"),
    pytest.param(struct.pack(">I4sQ", 1, b"ftyp", 1 << 62), "of 4611686018427387904 bytes", id="huge-box"),
    pytest.param(init() + struct.pack(">I4s", 0, b"mdat"), "without a moof", id="endless-box"),
    pytest.param(struct.pack(">I4s", 3, b"ftyp"), "a box of 3 bytes", id="size-3"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", "a box of type", id="no-boxes"),
    pytest.param(init() + fragment(0, 1, audio_offset=11), "10 s apart", id="skew"),
    pytest.param(init() + fragment(0, 1).replace(b"tfdt", b"free"), "without tfdt", id="no-tfdt"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED)
def test_what_is_refused(data: bytes, reason: str | None) -> None:
    if reason is None:  # the control: not complete is not wrong
        assert len(read_all(data)) == 1
        return
    with pytest.raises(UnsupportedMedia, match=reason):
        read_all(data)


@pytest.mark.parametrize("data", [one.values[0] for one in REFUSED if one.values[1] is not None])
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_what_was_pending_before_a_refusal_can_be_told_after_it(data: bytes, size: int) -> None:
    reader, before = FragmentReader(), b""
    with pytest.raises(UnsupportedMedia):  # noqa: PT012  # the bytes come in pieces
        for piece in (data[at : at + size] for at in range(0, len(data), size)):
            before = reader.pending
            list(reader.feed(piece))
    assert reader.pending_before == before


@given(data=st.binary(max_size=200), lead=st.sampled_from([b"", init(), init() + fragment(0, 1)[:90]]))
def test_any_bytes_are_units_or_refused(data: bytes, lead: bytes) -> None:
    reader = FragmentReader()
    try:
        list(reader.feed(lead + data))
    except UnsupportedMedia:
        return
    assert reader.consumed + reader.pending_bytes == len(lead + data)


@given(position=st.integers(0, len(STREAM) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    """By the reader, or by the cutter and the header behind it: with a reason, and with no other error."""
    changed = bytearray(STREAM)
    changed[position] = value
    reader, cutter = FragmentReader(), Cutter(2, 4096)
    segments: list[Segment] = []
    with contextlib.suppress(UnsupportedMedia):
        for unit in reader.feed(bytes(changed)):
            segments += (cutter.set_init(unit) if isinstance(unit, InitSegment) else cutter.add(unit, 0.0)).segments
        segments += cutter.end().segments
    if reader.init is not None and segments:
        assert len(render_header(reader.init, segments, 4096)) == 4096


def test_a_stream_of_ffmpeg_is_read_whole(live_sample: Path) -> None:
    first, *fragments = read_all(live_sample.read_bytes())
    assert isinstance(first, InitSegment)
    assert first.codecs[1] == "mp4a.40.2"
    assert len(fragments) == 12
    assert all(isinstance(unit, Fragment) and unit.tracks[0].begins_with_sync_sample for unit in fragments)
