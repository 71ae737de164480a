"""Files by hand: which container is found, what is wanted next, and bytes that no encoder writes."""

import struct
import time

import pytest

from services.common.containers.facts import MAX_TAG_LENGTH, FactsDraft, MediaFacts, facts_json
from services.common.containers.scanner import WINDOW_BYTES, FactsScanner


def scan(data: bytes) -> MediaFacts | None:
    scanner = FactsScanner()
    scanner.feed(data)
    return scanner.finish()


def box(box_type: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + box_type + body


def mvhd(timescale: int, duration: int) -> bytes:
    return box(b"mvhd", bytes(12), struct.pack(">II", timescale, duration), bytes(80))


def track(handler: bytes, entry: bytes, *, table_bytes: int = 0) -> bytes:
    """Return a `trak` whose sample tables (`stbl`) have `table_bytes` bytes."""
    hdlr = box(b"hdlr", bytes(8), handler, bytes(13))
    mdhd = box(b"mdhd", bytes(12), struct.pack(">II", 1000, 5000), bytes(4))
    stsd = box(b"stsd", bytes(8), entry)
    stbl = box(b"stbl", stsd, box(b"stsz", bytes(table_bytes)))
    return box(b"trak", box(b"tkhd", bytes(84)), box(b"mdia", mdhd, hdlr, box(b"minf", stbl)))


VIDEO = box(b"avc1", bytes(24), struct.pack(">HH", 640, 360), bytes(50), box(b"avcC", b"\1\x64\0\x1f"))
AUDIO = box(b"Opus", bytes(28))
FTYP = box(b"ftyp", b"isom", bytes(4))
TITLE_ITEM = box(b"\xa9nam", box(b"data", bytes(8), b"Long"))
TITLE = box(b"udta", box(b"meta", bytes(4), box(b"hdlr", bytes(25)), box(b"ilst", TITLE_ITEM)))


def long_film() -> bytes:
    """Its index is in front and has more than a megabyte of tables."""
    tracks = track(b"vide", VIDEO, table_bytes=900_000), track(b"soun", AUDIO, table_bytes=700_000)
    return FTYP + box(b"moov", mvhd(1000, 7_200_000), *tracks, TITLE) + box(b"mdat", bytes(1000))


def test_a_long_index_is_read_while_it_passes() -> None:
    expected = MediaFacts("video", 7200.0, 640, 360, ("avc1.64001f", "opus"), 0, {"title": "Long"})
    data = long_film()
    assert scan(data) == expected
    for size in (4096, 65_536, WINDOW_BYTES):
        scanner = FactsScanner()
        for at in range(0, len(data), size):
            scanner.feed(data[at : at + size])
        assert scanner.finish() == expected


def test_two_blocks_give_the_second_track() -> None:
    data = long_film()
    scanner = FactsScanner()
    scanner.feed(data[:WINDOW_BYTES])
    wanted = scanner.wanted
    assert wanted is not None
    assert wanted > WINDOW_BYTES
    scanner.skip_to(wanted)
    scanner.feed(data[wanted : wanted + WINDOW_BYTES])
    facts = scanner.finish(len(data))
    assert facts is not None
    assert (facts.duration, facts.codecs, facts.tags) == (7200.0, ("avc1.64001f", "opus"), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"plain text, not a media file",
        bytes(1000),
        b"\xff" * 1000,
        b"%PDF-1.7",
        b"RIFF\0\0\0\0AVI ",
        b"PK\3\4",
        FTYP,
        FTYP + box(b"mdat", bytes(100)),
    ],
)
def test_other_files_have_no_facts(data: bytes) -> None:
    assert scan(data) is None


def test_id3_in_each_version_and_encoding() -> None:
    def tag(version: int, *frames: bytes) -> bytes:
        body = b"".join(frames)
        return b"ID3" + bytes([version, 0, 0]) + bytes([0, 0, len(body) >> 7, len(body) & 0x7F]) + body

    def frame(name: bytes, text: bytes) -> bytes:
        return (
            name + (len(text).to_bytes(4, "big") + bytes(2) if len(name) == 4 else len(text).to_bytes(3, "big")) + text
        )

    sound = (b"\xff\xfb\x50\xc4" + bytes(204)) * 3
    for version, names in (
        (2, (b"TT2", b"TP1", b"TAL")),
        (3, (b"TIT2", b"TPE1", b"TALB")),
        (4, (b"TIT2", b"TPE1", b"TALB")),
    ):
        texts = (
            b"\0caf\xe9",
            b"\1" + "Ä Б".encode("utf-16"),
            b"\3\xe2\x82\xac" if version == 4 else b"\2" + "€".encode("utf-16-be"),
        )
        facts = scan(tag(version, *map(frame, names, texts)) + sound)
        assert facts is not None
        assert facts.tags == {"title": "café", "artist": "Ä Б", "album": "€"}, version


def test_a_cover_that_is_larger_than_a_window_is_passed_over() -> None:
    size = 2 * WINDOW_BYTES
    synchsafe = bytes(size + 10 >> shift & 0x7F for shift in (21, 14, 7, 0))
    tag = b"ID3\3\0\0" + synchsafe + b"APIC" + size.to_bytes(4, "big") + bytes(2) + bytes(size)
    xing = b"\xff\xfb\x50\xc4" + bytes(17) + b"Xing" + (1).to_bytes(4, "big") + (1000).to_bytes(4, "big")
    sound = xing.ljust(208, b"\0") + b"\xff\xfb\x50\xc4".ljust(208, b"\0") * 30
    facts = scan(tag + sound)
    assert facts is not None
    assert facts.duration == pytest.approx(1000 * 1152 / 44_100, abs=0.01)


def test_png_says_title_and_orientation() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + bytes(4)

    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    head = chunk(b"IHDR", struct.pack(">II", 30, 20) + bytes(5))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"tEXt", b"Title\0caf\xe9") + chunk(b"eXIf", exif) + chunk(b"IDAT", b"x")
    assert scan(data) == MediaFacts("image", None, 30, 20, (), 90, {"title": "café"})


def test_webp_is_turned_by_the_exif_behind_its_picture() -> None:
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 8, 0, 0)
    extended = b"VP8X" + (10).to_bytes(4, "little") + b"\x08" + bytes(3) + b"\x3f\0\0" + b"\x1f\0\0"
    picture = b"VP8 " + (400_000).to_bytes(4, "little") + bytes(400_000)
    data = b"RIFF\0\0\0\0WEBP" + extended + picture + b"EXIF" + len(exif).to_bytes(4, "little") + exif
    assert scan(data) == MediaFacts("image", None, 64, 32, (), 270)


@pytest.mark.parametrize(
    "data",
    [
        FTYP + box(b"moov", *[box(b"free")] * 30_000),
        FTYP + box(b"moov", *[track(b"vide", VIDEO)] * 500),
        FTYP + (b"\0\xff\xff\xffmoov" * 30_000),
        box(b"moov", mvhd(1000, 1), box(b"mvex"), track(b"vide", VIDEO)) + b"\0\0\1\0moof" * 30_000,
        b"GIF89a" + bytes(7) + b"\x21\xff" + b"\x01a" * 120_000,
        b"GIF89a" + bytes(7) + b"\x2c" + bytes(9) + b"\0" + b"\x2c" * 250_000,
        b"OggS\0\2" + bytes(8) + b"\1\0\0\0" + bytes(8) + b"\1\x1e\x01vorbis" + bytes(30) + b"OggS" * 60_000,
        b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b"TIT2\0\0\0\1\0\0a" * 20_000,
        b"\x1aE\xdf\xa3\x80\x18S\x80g\xff" + b"\xec\x80" * 120_000,
        b"\x1aE\xdf\xa3\x80\x18S\x80g\xff\x12T\xc3g\x22\xff\xf0" + b"\x73\x73\x80" * 80_000,
        b"\xff\xd8" + b"\xff\xe1\0\2" * 60_000,
        b"RIFF\0\0\0\0WAVE" + b"LIST\0\0\0\0" * 30_000,
        b"\xff\xfb\x50\xc4" + bytes(188) + b"\xff" * 250_000,
        b"fLaC" + b"\4\0\0\x08\0\0\0\0\xff\xff\xff\xff" * 20_000,
        box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(4), *[box(b"free")] * 20_000),
    ],
    ids=lambda data: data[:8].hex(),
)
def test_hostile_files_end_soon(data: bytes) -> None:
    began = time.process_time()
    scan(data)
    assert time.process_time() - began < 0.1


def test_what_waits_can_be_dropped() -> None:
    data = FTYP + box(b"mdat", bytes(100)) + box(b"moov", bytes(3000))
    scanner = FactsScanner()
    scanner.feed(data)
    assert scanner.held_bytes == len(data)
    scanner.drop_held_bytes()
    assert (scanner.held_bytes, scanner.is_lossy, scanner.wanted) == (0, True, None)
    scanner = FactsScanner()
    scanner.feed(FTYP + box(b"mdat", bytes(2 * WINDOW_BYTES)))
    scanner.drop_held_bytes()
    assert (scanner.held_bytes, scanner.is_lossy) == (0, False)


def test_a_draft_ignores_what_cannot_be_true() -> None:
    draft = FactsDraft(kind="video")
    for units, per_second in ((0, 1), (1, 0), (-1, 1), (float("inf"), 1), (float("nan"), 1), (1 << 63, 1)):
        draft.set_duration(units, per_second)
    for size in ((0, 1), (1, 0), (1 << 31, 1)):
        draft.set_size(*size)
    for codec in ("", "\x00abc", "ä", "x" * 100):
        draft.add_codec(codec)
    draft.add_tag("comment", "not kept")
    draft.add_tag(None, "of no name")
    draft.add_tag("title", " \x00\x1b ")
    assert draft.finish() == MediaFacts("video")
    draft.add_tag("title", "a\r\nb\u202e" + "c" * 1000)
    draft.add_tag("title", "second")
    facts = draft.finish()
    assert facts is not None
    assert facts.tags["title"].startswith("a b c")
    assert len(facts.tags["title"]) == MAX_TAG_LENGTH


def test_json() -> None:
    assert facts_json(None) == "null"
    assert facts_json(MediaFacts("audio", 1.5, codecs=("opus",), tags={"title": "Ü"})) == (
        '{"kind":"audio","duration":1.5,"width":null,"height":null,"codecs":["opus"],"rotation":null,"tags":{"title":"Ü"}}'
    )
