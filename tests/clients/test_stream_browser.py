"""A `<video>` element in Chromium seeks, and a canvas reads back which frame it shows: each carries its number as a barcode."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import ChromiumBrowser
from tests.support.databases import ServerProcess
from tests.support.media_library import MediaServices, run_media_services

FRAMES_PER_SECOND = 25
DURATION_SECONDS = 30
WIDTH, HEIGHT, BITS = 320, 180, 16
# Answers with the barcodes of the pictures that are shown after seeking to each time; 16 bars, the highest bit left. A busy machine
# paints a picture a moment after `seeked`, so each is looked at until it is the one that is wanted, for five seconds at the most.
SEEK_SCRIPT = """
const [url, times, wanted, done] = arguments;
const video = document.createElement('video');
video.muted = true;
video.preload = 'auto';
video.src = url;
document.documentElement.appendChild(video);
const once = (name) => new Promise((resolve, reject) => {
  video.addEventListener(name, resolve, {once: true});
  video.addEventListener('error', () => reject(new Error(video.error.message)), {once: true});
});
const read = () => {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  let number = 0;
  for (let bit = 0; bit < 16; bit++) {
    const x = Math.floor((bit + 0.5) * canvas.width / 16);
    number = number * 2 + (context.getImageData(x, canvas.height / 2, 1, 1).data[0] > 127 ? 1 : 0);
  }
  return number;
};
(async () => {
  await once('loadedmetadata');
  const seen = [];
  for (const [index, time] of times.entries()) {
    const seeked = once('seeked');
    video.currentTime = time;
    await seeked;
    const until = performance.now() + 5000;
    let shown = read();
    while (shown !== wanted[index] && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      shown = read();
    }
    seen.push(shown);
  }
  const [duration, ranges] = [video.duration, video.seekable.length];
  video.remove();
  return {seen, duration, ranges};
})().then((result) => done(result), (error) => done({error: String(error)}));
"""


def barcode(number: int) -> int:
    """A frame's number, and the complement of its lowest bits, so that no other frame and no black one looks like it."""
    return number | (~number & 0xF) << 12


def frame_pixels(number: int) -> bytes:
    """Its barcode in black and white."""
    bars = (b"\xff" if barcode(number) >> (BITS - 1 - bit) & 1 else b"\x00" for bit in range(BITS))
    return b"".join(bar * (WIDTH // BITS) for bar in bars) * HEIGHT


def encode_video(ffmpeg: str, target: Path, *codec: str) -> None:
    command = [ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}"]
    command += ["-r", str(FRAMES_PER_SECOND), "-i", "-", "-pix_fmt", "yuv420p", "-g", "50", *codec, str(target)]
    pictures = b"".join(frame_pixels(number) for number in range(DURATION_SECONDS * FRAMES_PER_SECOND))
    subprocess.run(command, check=True, input=pictures, timeout=100)


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str
) -> Iterator[MediaServices]:
    folder = tmp_path_factory.mktemp("browser")
    encode_video(
        ffmpeg, folder / "bars.webm", "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "16", "-b:v", "500k"
    )
    encode_video(ffmpeg, folder / "bars.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "18")
    with run_media_services(folder, mongod, redis_server.url, "test_stream_browser") as lib:
        lib.put("bars.webm", folder / "bars.webm")
        lib.put("bars.mp4", folder / "bars.mp4", content_type="video/mp4")
        yield lib


@pytest.mark.parametrize(
    ("kind", "mime"), [("webm", 'video/webm; codecs="vp8"'), ("mp4", 'video/mp4; codecs="avc1.42c01e"')]
)
def test_browser_shows_the_right_frame_after_every_seek(
    browser: ChromiumBrowser, media_services: MediaServices, kind: str, mime: str
) -> None:
    browser.open_url(f"{media_services.stream.url}/livez")  # a page of the same origin, so that the canvas may be read
    asks = "arguments[1](document.createElement('video').canPlayType(arguments[0]))"
    if not browser.run_script(asks, mime):
        pytest.skip(f"this Chromium does not play {mime}")
    rng = random.Random(7)
    wanted = [
        DURATION_SECONDS * FRAMES_PER_SECOND - 2,
        0,
        700,
        *rng.sample(range(DURATION_SECONDS * FRAMES_PER_SECOND), 17),
    ]
    path = media_services.url(f"bars.{kind}").removeprefix(media_services.stream.url)
    codes = [barcode(number) for number in wanted]
    shown = browser.run_script(SEEK_SCRIPT, path, [(number + 0.5) / FRAMES_PER_SECOND for number in wanted], codes)
    assert "error" not in shown, shown
    assert shown["seen"] == codes
    assert abs(shown["duration"] - DURATION_SECONDS) < 0.1
    assert shown["ranges"] == 1
    assert '"status": 206' in media_services.stream.log
    assert "Traceback" not in media_services.stream.log
