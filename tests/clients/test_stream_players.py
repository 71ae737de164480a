"""Players as clients: ffmpeg and ffprobe must get the same over HTTP as from a local file; mpv and VLC where they are installed."""

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess
from tests.support.media_library import MediaServices, run_media_services
from tests.support.programs import require_program
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.videos import SampleVideos

ACCESS_LOG_BYTES = re.compile(r'"path": "/file/stream", .*"bytes_sent": ([0-9]+)')


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess,
    redis_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
    sample_videos: SampleVideos,
) -> Iterator[MediaServices]:
    with run_media_services(tmp_path_factory.mktemp("players"), mongod, redis_server.url, "test_stream_players") as lib:
        lib.put("minute.webm", sample_videos.webm)
        lib.put("minute.mp4", sample_videos.mp4, content_type="video/mp4")
        yield lib


def decode_frame(ffmpeg: str, source: str | Path, second: float | None = None) -> bytes:
    """The frame at a time, or the first one, as raw grey pixels."""
    seek = [] if second is None else ["-ss", f"{second:.3f}"]
    command = [ffmpeg, "-v", "error", "-nostdin", *seek, "-i", str(source)]
    command += ["-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo", "-"]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_ffmpeg_seeks_to_twenty_random_times(
    media_services: MediaServices, sample_videos: SampleVideos, kind: str
) -> None:
    path = sample_videos.webm if kind == "webm" else sample_videos.mp4
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(20):
        second = rng.uniform(0, sample_videos.seconds - 1)
        there = decode_frame(sample_videos.ffmpeg, media_services.url(f"minute.{kind}"), second)
        assert there, f"seed {seed}: nothing at {second}"
        assert there == decode_frame(sample_videos.ffmpeg, path, second), f"seed {seed}: another picture at {second}"


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_ffprobe_reports_the_same_for_local_and_remote_files(
    media_services: MediaServices, sample_videos: SampleVideos, kind: str
) -> None:
    ffprobe = require_program("ffprobe", "ffmpeg")

    def packets(source: str | Path) -> object:
        command = [ffprobe, "-v", "error", "-of", "json", "-read_intervals", "5%+2,40%+3,20%+1"]
        command += ["-show_entries", "packet=pts_time,size,flags", str(source)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    assert packets(media_services.url(f"minute.{kind}")) == packets(
        sample_videos.webm if kind == "webm" else sample_videos.mp4
    )


@pytest.fixture(scope="module")
def large_mp4(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 MiB of incompressible noise with the index at the end."""
    target = tmp_path_factory.mktemp("large") / "large.mp4"
    source = "testsrc=size=640x360:rate=25:duration=12,noise=alls=100:allf=t"
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "4", "-pix_fmt", "yuv420p", "-g", "50"]
    subprocess.run(
        [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, *codec, str(target)], check=True, timeout=100
    )
    return target


def test_mp4_with_trailing_index_starts_without_reading_the_whole_file(
    media_services: MediaServices, ffmpeg: str, large_mp4: Path
) -> None:
    """At most three requests, which neither send nor read what lies between head and index."""
    size = large_mp4.stat().st_size
    assert size > 60 * MIB
    assert large_mp4.read_bytes().rindex(b"moov") > size // 2
    media_services.put("large.mp4", large_mp4, content_type="video/mp4")

    def sent() -> int:
        return int(media_services.db.client.admin.command("serverStatus")["network"]["bytesOut"])

    time.sleep(0.2)  # the access log line of an aborted response is written when the disconnect is noticed
    requests, before = len(ACCESS_LOG_BYTES.findall(media_services.stream.log)), sent()
    assert decode_frame(ffmpeg, media_services.url("large.mp4")) == decode_frame(ffmpeg, large_mp4)
    read = sent() - before
    time.sleep(0.2)
    answers = [int(count) for count in ACCESS_LOG_BYTES.findall(media_services.stream.log)[requests:]]
    print(
        f"first picture of {size / MIB:.0f} MiB: {len(answers)} requests, {sum(answers) / MIB:.1f} MiB answered, "
        f"{read / MIB:.1f} MiB read from the store"
    )
    assert 2 <= len(answers) <= 3
    assert sum(answers) < size // 3
    assert read < size // 3
    assert read > CHUNK_SIZE


@pytest.mark.parametrize("kind", ["webm", "mp4"])
@pytest.mark.parametrize(("player", "package"), [("mpv", "mpv"), ("cvlc", "vlc-bin")])
def test_players_play_headless(media_services: MediaServices, player: str, package: str, kind: str) -> None:
    program = require_program(player, package)
    url = media_services.url(f"minute.{kind}")
    command = {
        "mpv": [
            program,
            "--no-config",
            "--vo=null",
            "--ao=null",
            "--start=40",
            "--frames=25",
            "--msg-level=all=error",
            url,
        ],
        "cvlc": [program, "--vout=dummy", "--aout=dummy", "--start-time=40", "--run-time=1", "--play-and-exit", url],
    }[player]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
