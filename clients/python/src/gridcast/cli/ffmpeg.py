"""Command lines of ffmpeg that turn a file, a camera or a screen into fragmented MP4 on standard output. Pure."""

import sys
from collections.abc import Mapping, Sequence

KEY_FRAME_SECONDS = 2
_FRAGMENTED_OUTPUT = (
    "-f",
    "mp4",
    "-movflags",
    "+frag_keyframe+empty_moov+default_base_moof",
    "-frag_duration",
    "1000000",
    "-min_frag_duration",
    "200000",
    "-flush_packets",
    "1",
    "pipe:1",
)
_ENCODED = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-tune",
    "zerolatency",
    "-pix_fmt",
    "yuv420p",
    "-force_key_frames",
    f"expr:gte(t,n_forced*{KEY_FRAME_SECONDS})",
    "-c:a",
    "aac",
)


def file_command(source: str, *, copies: bool) -> list[str]:
    """Read a file, or the address of a stream, at its own speed; with `copies` the codecs stay."""
    codecs: Sequence[str] = ("-c", "copy") if copies else _ENCODED
    return ["ffmpeg", *_QUIET, "-re", "-i", source, "-map", "0:v?", "-map", "0:a?", *codecs, *_FRAGMENTED_OUTPUT]


def camera_command(device: str, platform: str = sys.platform) -> list[str]:
    """Read a camera: /dev/video0 on Linux, a name or number elsewhere."""
    if platform == "darwin":
        given = ["-f", "avfoundation", "-framerate", "30", "-i", device]
    elif platform == "win32":
        given = ["-f", "dshow", "-i", f"video={device}"]
    else:
        given = ["-f", "v4l2", "-i", device]
    return ["ffmpeg", *_QUIET, *given, *_ENCODED, *_FRAGMENTED_OUTPUT]


def screen_command(environment: Mapping[str, str], platform: str = sys.platform) -> list[str]:
    """Read the screen."""
    if platform == "darwin":
        given = ("-f", "avfoundation", "-framerate", "30", "-i", "Capture screen 0")
    elif platform == "win32":
        given = ("-f", "gdigrab", "-framerate", "30", "-i", "desktop")
    else:
        given = ("-f", "x11grab", "-framerate", "30", "-i", environment.get("DISPLAY", ":0"))
    return ["ffmpeg", *_QUIET, *given, *_ENCODED, *_FRAGMENTED_OUTPUT]


_QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin")
