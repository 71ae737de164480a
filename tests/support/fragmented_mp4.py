"""Fragmented MP4 for tests: made by hand, box by box, and by ffmpeg."""

import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.shared_folders import make_once

VIDEO, AUDIO = 1, 2
LIVE_SAMPLE = "sample.mp4"
VIDEO_TIMESCALE, AUDIO_TIMESCALE = 90_000, 48_000
_SYNC, _NON_SYNC = 0x02000000, 0x01010000


def box(box_type: bytes, *parts: bytes) -> bytes:
    """One box."""
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, box_type) + body


def init(
    *,
    audio: bool = True,
    video: bool = True,
    codec: bytes = b"avc1",
    timescale: int = VIDEO_TIMESCALE,
    size: tuple[int, int] = (160, 90),
) -> bytes:
    """`ftyp` and `moov` of H.264 and AAC."""
    traks, trexes = [], []
    if video:
        avcc = box(b"avcC", b"\x01\x64\x00\x0a\xff\xe1\x00\x00\x00")
        entry = box(codec, bytes(24), struct.pack(">HH", *size), bytes(50), avcc)
        traks.append(_trak(VIDEO, timescale, b"vide", entry))
        trexes.append(box(b"trex", struct.pack(">6I", 0, VIDEO, 1, 0, 0, _NON_SYNC)))
    if audio:
        entry = box(b"mp4a", bytes(28), box(b"esds", bytes(4)))
        traks.append(_trak(AUDIO, AUDIO_TIMESCALE, b"soun", entry))
        trexes.append(box(b"trex", struct.pack(">6I", 0, AUDIO, 1, 1024, 0, _SYNC)))
    mvhd = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 0), bytes(80))
    return box(b"ftyp", b"iso6\x00\x00\x00\x01iso6mp41") + box(b"moov", mvhd, *traks, box(b"mvex", *trexes))


def _trak(track_id: int, timescale: int, handler: bytes, entry: bytes) -> bytes:
    tkhd = box(b"tkhd", struct.pack(">IIIIII", 7, 0, 0, track_id, 0, 0), bytes(60))
    mdhd = box(b"mdhd", struct.pack(">IIIII", 0, 0, 0, timescale, 0), bytes(4))
    hdlr = box(b"hdlr", bytes(8), handler, bytes(13))
    stbl = box(b"stbl", box(b"stsd", struct.pack(">II", 0, 1), entry))
    return box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, box(b"minf", stbl)))


def fragment(
    start: float,
    seconds: float,
    *,
    key: bool = True,
    tracks: tuple[int, ...] = (VIDEO, AUDIO),
    durations: bool = True,
    fill: int = 100,
    version: int = 1,
    audio_offset: float = 0.0,
) -> bytes:
    """`moof` and `mdat`: one sample of each track of `fill` bytes. Without `durations` they are 0, as some recorders write."""
    trafs = []
    for track in tracks:
        scale = VIDEO_TIMESCALE if track == VIDEO else AUDIO_TIMESCALE
        ticks = round((start + (audio_offset if track == AUDIO else 0)) * scale)
        flags = _SYNC if key or track == AUDIO else _NON_SYNC
        tfhd = box(b"tfhd", struct.pack(">II", 0x020000, track))
        tfdt = box(b"tfdt", struct.pack(">IQ" if version else ">II", version << 24, ticks))
        duration = round(seconds * scale) if durations else 0
        trun = box(b"trun", struct.pack(">IIIII", 0x000304, 1, flags, duration, fill))
        trafs.append(box(b"traf", tfhd, tfdt, trun))
    moof = box(b"moof", box(b"mfhd", bytes(8)), *trafs)
    return moof + box(b"mdat", b"\x5a" * (fill * len(tracks)))


@pytest.fixture(scope="session")
def live_sample(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ffmpeg sends as one endless body: 12 s of H.264 and AAC, a key frame and a fragment each second."""
    return make_once(tmp_path_factory, "live", lambda folder: encode(ffmpeg, folder / LIVE_SAMPLE)) / LIVE_SAMPLE


def encode(ffmpeg: str, path: Path, size: str = "160x90") -> None:
    """Write a sample of this size."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", f"testsrc=size={size}:rate=25:duration=12"]
    command += ["-f", "lavfi", "-i", "sine=duration=12", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25"]
    command += ["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "48k", "-f", "mp4"]
    command += ["-movflags", "frag_keyframe+empty_moov+default_base_moof", str(path)]
    subprocess.run(command, check=True, timeout=100)
