"""What the first blocks of a file say of when it can be played, whatever is in front of the box that decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.containers.layout import INDEX_AT_END, MAX_SCANNED_BLOCKS, LayoutScanner, MediaLayout
from tests.support.fragmented_mp4 import box, fragment, init

BLOCK = 255 * 1024
FTYP = box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2avc1mp41")
MOOV = box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", bytes(3000)))
LONG_MOOV = box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", bytes(5 * BLOCK)))
MDAT = box(b"mdat", bytes(3 * BLOCK))
MOOF = fragment(0, 1)


def scan(data: bytes, block_size: int = BLOCK) -> MediaLayout | None:
    """The layout as the blocks of a file say it, and that nothing is looked at once it is known."""
    scanner = LayoutScanner()
    for at in range(0, len(data), block_size):
        if scanner.done:
            break
        scanner.show(data[at : at + block_size])
    found = scanner.layout
    scanner.show(b"x" * 100)
    assert scanner.layout == found
    return found


def matroska(document_type: bytes) -> bytes:
    """The head of an EBML document."""
    body = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\x82" + bytes([0x80 | len(document_type)]) + document_type
    return b"\x1aE\xdf\xa3" + bytes([0x80 | len(body)]) + body + b"\x18\x53\x80\x67\x01" + b"\xff" * 7


@pytest.mark.parametrize(
    ("data", "kind", "content_type"),
    [
        (FTYP + MOOV + MDAT, "index-first", "video/mp4"),
        (FTYP + LONG_MOOV + MDAT, "index-first", "video/mp4"),
        (FTYP + box(b"free", bytes(2 * BLOCK)) + MOOV + MDAT, "index-first", "video/mp4"),
        (FTYP + MDAT + MOOV, "index-last", "video/mp4"),
        (FTYP + box(b"free", bytes(8)) + MDAT + MOOV, "index-last", "video/mp4"),
        (FTYP + b"\x00\x00\x00\x01mdat" + (1 << 40).to_bytes(8, "big") + bytes(BLOCK), "index-last", "video/mp4"),
        (FTYP + b"\x00\x00\x00\x00mdat" + bytes(BLOCK), "index-last", "video/mp4"),
        (FTYP + box(b"free", bytes(40 * BLOCK)), "index-last", "video/mp4"),
        (box(b"ftyp", b"qt  \x00\x00\x02\x00qt  ") + MOOV + MDAT, "index-first", "video/quicktime"),
        (box(b"wide") + MDAT + MOOV, "index-last", "video/quicktime"),
        (init() + MOOF, "fragmented", "video/mp4"),
        (init() + box(b"sidx", bytes(30)) + MOOF, "fragmented", "video/mp4"),
        (box(b"ftyp", b"iso6\x00\x00\x00\x01iso6mp41") + box(b"styp", b"msdh") + MOOF, "fragmented", "video/mp4"),
        (matroska(b"webm"), "webm", "video/webm"),
        (matroska(b"matroska"), "webm", "video/x-matroska"),
        (b"OggS" + bytes(100), "sequential", "application/ogg"),
        (b"fLaC" + bytes(100), "sequential", "audio/flac"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(100), "sequential", "audio/wav"),
    ],
)
def test_layouts(data: bytes, kind: str, content_type: str) -> None:
    layout = scan(data)
    assert layout is not None
    assert (layout.kind, layout.content_type) == (kind, content_type)
    assert layout.playable is (kind != "index-last")
    assert layout.reason == (None if layout.playable else INDEX_AT_END)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"RIFF\x00\x00\x00\x00WEBP" + bytes(100),
        box(b"ftyp", b"heic\x00\x00\x00\x00mif1heic") + box(b"meta", bytes(100)),
        b"plain text " * 100,
        FTYP + b"\x00\x00\x00\x04moov",
        FTYP + box(b"free") * 100 + MOOV,
    ],
)
def test_what_is_no_video_or_sound_has_no_layout(data: bytes) -> None:
    assert scan(data) is None


@pytest.mark.parametrize("cut", range(1, 17))
def test_a_header_that_is_cut_by_the_end_of_a_block_is_read(cut: int) -> None:
    filling = BLOCK - len(FTYP) - 8 - cut
    data = (
        FTYP + box(b"free", bytes(filling)) + b"\x00\x00\x00\x01moov" + (5000).to_bytes(8, "big") + bytes(4984) + MDAT
    )
    layout = scan(data)
    assert layout is not None
    assert layout.kind == "index-first"


def test_no_more_blocks_are_looked_at_than_the_limit() -> None:
    scanner = LayoutScanner()
    for number in range(MAX_SCANNED_BLOCKS):
        assert not scanner.done
        scanner.show((FTYP + box(b"free", bytes(40 * BLOCK)))[:BLOCK] if number == 0 else bytes(BLOCK))
    assert scanner.done


@given(st.binary(max_size=400), st.integers(1, 400), st.booleans())
def test_any_bytes_are_looked_at_without_an_error(data: bytes, size: int, begins_as_mp4: bool) -> None:
    scan(FTYP + data if begins_as_mp4 else data, size)
