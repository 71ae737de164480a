"""Fixtures: real videos of one minute with a key frame every two seconds, encoded by ffmpeg once per run."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.support.shared_folders import make_once

DURATION_SECONDS = 60
FRAMES_PER_SECOND = 25
FRAGMENTED_MP4_TO_STDOUT = (
    *("-c:v", "libx264", "-preset", "ultrafast", "-g", str(FRAMES_PER_SECOND), "-pix_fmt", "yuv420p", "-c:a", "aac"),
    *("-frag_duration", "1000000", "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-f", "mp4", "-"),
)
"""Output options of ffmpeg: H.264 and AAC in fragments of one second, on standard output."""


@dataclass(frozen=True)
class SampleVideos:
    """Paths of the videos, their length in seconds, and the ffmpeg that made them."""

    webm: Path
    """WebM with VP9."""
    mp4: Path
    """MP4 with H.264 and its index at the end, so that a player needs ranges to start."""
    seconds: int
    ffmpeg: str


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """Path of the system's ffmpeg, else of the one in the imageio-ffmpeg wheel."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def sample_videos(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> SampleVideos:
    """Encode both videos."""
    folder = make_once(tmp_path_factory, "videos", lambda folder: _encode(ffmpeg, folder))
    return SampleVideos(folder / "minute.webm", folder / "minute.mp4", DURATION_SECONDS, ffmpeg)


def _encode(ffmpeg: str, folder: Path) -> None:
    webm, mp4 = folder / "minute.webm", folder / "minute.mp4"
    vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1", "-b:v", "300k"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    source = f"testsrc=size=320x180:rate={FRAMES_PER_SECOND}:duration={DURATION_SECONDS}"
    for codec, target in ((vp9, webm), (h264, mp4)):
        command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, *codec, "-g", "50", str(target)]
        subprocess.run(command, check=True, timeout=100)
