"""What ffmpeg and ffprobe ask an HTTP server for: their own count of requests and of bytes."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpReads:
    """What a program printed, how many GET requests it sent, and how many bytes it read of the answers."""

    output: str
    requests: int
    bytes_read: int


def read_counting(program: str, *arguments: str) -> HttpReads:
    """Run a program of ffmpeg and count. Raises CalledProcessError."""
    said = subprocess.run(
        [program, "-v", "debug", *arguments], check=True, capture_output=True, text=True, errors="replace", timeout=120
    )
    requests = re.findall(r"^(?:\[http @ \w+\] )?request: GET ", said.stderr, re.MULTILINE)
    read = re.findall(r"Statistics: (\d+) bytes read", said.stderr)
    return HttpReads(said.stdout, len(requests), sum(map(int, read)))


def read_length(ffprobe: str, url: str) -> HttpReads:
    """Ask for the duration of a file, in seconds."""
    arguments: Sequence[str] = ("-show_entries", "format=duration", "-of", "csv=p=0", url)
    return read_counting(ffprobe, *arguments)


def read_picture(ffmpeg: str, url: str, seconds: float) -> HttpReads:
    """Decode the first picture from `seconds` on. The output is when it is shown, in seconds from there."""
    arguments = ("-nostdin", "-ss", str(seconds), "-copyts", "-i", url, "-map", "0:v", "-frames:v", "1")
    return read_counting(ffmpeg, *arguments, "-f", "framecrc", "-")
