"""Links to media, opened in Chromium by themselves: the browser's own page around them plays and shows them."""

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import ChromiumBrowser
from tests.support.stack import Stack
from tests.support.waiting import eventually

VIDEO = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
# The state of the element in the page that the browser makes: [ready, size or duration].
STATE_SCRIPT = """
const media = document.querySelector('video, audio'), image = document.querySelector('img');
return media ? [media.readyState >= 2, media.duration] : image ? [image.complete, image.naturalWidth] : null;
"""


def encode(ffmpeg: str, target: Path, *codec: str) -> bytes:
    """Two seconds of picture and sound, or one picture."""
    command = [ffmpeg, "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=2"]
    command += ["-f", "lavfi", "-i", "sine=d=2", *codec, str(target)]
    subprocess.run(command, check=True, timeout=60)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("name", "content_type", "codec", "expected"),
    [
        ("a.mp4", "video/mp4", VIDEO, 2.0),
        ("a.webm", "video/webm", ("-c:v", "libvpx", "-c:a", "libopus"), 2.0),
        ("a.mp3", "audio/mpeg", ("-vn",), 2.0),
        ("b.mp3", "audio/mp3", ("-vn",), 2.0),
        ("a.m4a", "audio/x-m4a", ("-vn", "-c:a", "aac"), 2.0),
        ("a.wav", "audio/x-wav", ("-vn",), 2.0),
        ("a.flac", "audio/x-flac", ("-vn",), 2.0),
        ("a.m4v", "video/x-m4v", (*VIDEO, "-f", "mp4"), 2.0),
        ("a.png", "image/png", ("-an", "-frames:v", "1"), 64),
        ("a.jpg", "image/jpg", ("-an", "-frames:v", "1"), 64),
    ],
)
def test_the_browsers_own_page_shows_it(
    stack: Stack,
    browser: ChromiumBrowser,
    ffmpeg: str,
    tmp_path: Path,
    name: str,
    content_type: str,
    codec: tuple[str, ...],
    expected: float,
) -> None:
    url = f"{stack.url}/file/stream?folder=links&filename={name}"
    data = encode(ffmpeg, tmp_path / name, *codec)
    httpx.put(url, content=data, headers={"Content-Type": content_type}, trust_env=False).raise_for_status()
    browser.open_url(url)

    def shown() -> Any:
        state = browser.evaluate(STATE_SCRIPT)
        return state if state and state[0] else None

    assert eventually(shown, 10, name)[1] == pytest.approx(expected, abs=0.2)
    if expected == 2.0:
        playing = "const m = document.querySelector('video, audio'); m.muted = true; m.play(); return m.currentTime"
        eventually(lambda: browser.evaluate(playing) > 0.1, 10, "it plays")


def test_a_stored_page_is_downloaded_and_not_shown(stack: Stack, browser: ChromiumBrowser) -> None:
    url = f"{stack.url}/file/stream?folder=links&filename=a.html"
    page = b"<!doctype html><title>stored</title><script>document.title = 'it ran'</script>"
    httpx.put(url, content=page, headers={"Content-Type": "text/html"}, trust_env=False).raise_for_status()
    browser.open_url(f"{stack.url}/version")
    browser.evaluate(
        "const frame = document.createElement('iframe'); frame.src = arguments[0]; document.body.append(frame)", url
    )
    browser.evaluate("location = arguments[0]", url)
    assert browser.evaluate("return location.pathname") == "/version"
