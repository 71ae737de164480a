"""The header of a recording: exactly as long as reserved, and what ffprobe and ffmpeg make of the file that it completes."""

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.common.containers.boxes import iter_boxes
from services.common.containers.fragments import read_segment_index
from services.common.containers.mp4 import read_movie
from services.common.live.header import render_header
from services.common.live.initialisation import read_init
from services.common.live.segments import Segment
from tests.support.fragmented_mp4 import AUDIO, AUDIO_TIMESCALE, VIDEO, VIDEO_TIMESCALE, init
from tests.unit.common.live.test_cutter import HEADER_BYTES, Stream

BLOCK_BYTES = 255 * 1024
AUDIO_FRAME = 2048


def make_segments(count: int) -> list[Segment]:
    """Segments of 2 s and 1000 bytes."""
    ticks = 2 * VIDEO_TIMESCALE
    return [
        Segment(n, 0, BLOCK_BYTES + 1000 * n, 1000, ticks * n, ticks, VIDEO_TIMESCALE, 0.0, True) for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "references"), [(0, 0), (1, 1), (3, 3), (10_000, 10_000), (43_200, 10_800), (100_001, 10_001)]
)
def test_the_index_reaches_to_the_last_byte_whatever_the_length(count: int, references: int) -> None:
    data = render_header(read_init(init()), make_segments(count), BLOCK_BYTES)
    assert len(data) == BLOCK_BYTES
    boxes = list(iter_boxes(data, 0, len(data)))
    assert [box.type for box in boxes] == [b"ftyp", b"moov", b"free", b"sidx", b"sidx"]
    index = read_segment_index(data, boxes[-1])
    assert (index.referenced_bytes, index.duration) == (1000 * count, 2 * VIDEO_TIMESCALE * count)
    assert index.segment_count == references
    audio = read_segment_index(data, boxes[-2])
    assert (audio.referenced_bytes, audio.segment_count) == (1000 * count, references)
    assert audio.duration == (2 * count * AUDIO_TIMESCALE - AUDIO_FRAME if count else 0)
    movie = read_movie(data[: boxes[1].end])
    assert movie.duration == movie.fragments_duration == 2000 * count


@pytest.mark.parametrize(
    ("tracks", "found"), [({"audio": False}, [VIDEO]), ({"video": False}, [AUDIO]), ({}, [AUDIO, VIDEO])]
)
def test_each_track_has_an_index_and_the_main_one_is_last(tracks: dict[str, Any], found: list[int]) -> None:
    """The audio that is heard at a key frame may be in the segment before: its index says that its segments begin later."""
    data = render_header(read_init(init(**tracks)), make_segments(3), BLOCK_BYTES)
    indexes = [box for box in iter_boxes(data, 0, len(data)) if box.type == b"sidx"]
    read = [struct.unpack_from(">IIQQ", data, box.body + 4) for box in indexes]
    assert [track for track, *_ in read] == found
    assert [start for _, _, start, _ in read] == [AUDIO_FRAME, 0][-len(found) :]
    assert [offset for *_, offset in read] == [BLOCK_BYTES - box.end for box in indexes]


def test_too_little_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="too few"):
        render_header(read_init(init()), make_segments(1), 300)


@pytest.fixture(scope="module")
def recording(live_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sender that reconnected once leaves: twice 12 s."""
    stream = Stream(2, live_sample.read_bytes()).reconnect(live_sample.read_bytes())
    segments = stream.end()
    path = tmp_path_factory.mktemp("recording") / "recording.mp4"
    path.write_bytes(render_header(read_init(stream.epochs[0].init), segments, HEADER_BYTES * 3))
    moved = [segment._replace(offset=segment.offset + 2 * HEADER_BYTES) for segment in segments]
    assert moved[0].offset == path.stat().st_size
    path.write_bytes(path.read_bytes() + stream.file)
    return path


def test_ffprobe_knows_the_duration_and_every_frame(recording: Path) -> None:
    command = [
        "ffprobe",
        "-v",
        "error",
        "-of",
        "json",
        "-show_entries",
        "format=duration:stream=codec_name,nb_read_frames",
    ]
    said = json.loads(subprocess.check_output([*command, "-count_frames", str(recording)], timeout=60))
    assert float(said["format"]["duration"]) == pytest.approx(24, abs=0.1)
    (video,) = (stream for stream in said["streams"] if stream["codec_name"] == "h264")
    assert int(video["nb_read_frames"]) == 600


def test_ffmpeg_seeks_by_the_index_and_reads_little(recording: Path, ffmpeg: str) -> None:
    command = [
        ffmpeg,
        "-nostdin",
        "-v",
        "verbose",
        "-ss",
        "21.5",
        "-i",
        str(recording),
        "-frames:v",
        "1",
        "-f",
        "framemd5",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    frames = [line for line in done.stdout.splitlines() if not line.startswith(b"#")]
    assert len(frames) == 1
    sizes = [int(found) for found in re.findall(rb"Statistics: (\d+) bytes read", done.stderr)]
    assert sizes
    assert max(sizes) < recording.stat().st_size / 2


def test_the_decoded_frames_are_those_that_were_sent(recording: Path, live_sample: Path, ffmpeg: str) -> None:
    hashes = []
    for path in (live_sample, recording):
        command = [ffmpeg, "-nostdin", "-v", "error", "-i", str(path), "-map", "0:v", "-f", "framemd5", "-"]
        lines = subprocess.check_output(command, timeout=60).decode().splitlines()
        hashes.append([line.split(",")[-1] for line in lines if not line.startswith("#")])
    assert hashes[1] == hashes[0] * 2
