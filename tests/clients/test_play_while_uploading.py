"""Players of an upload that goes on: Chromium from the second second on and through the commit, mpv, ffmpeg and curl.

Chromium is timed from the first byte of the upload on; its player begins when the socket of the uploader hears `file.playable`.
Each frame that is presented is read back from its pixels.
"""

import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from services.common.store.play_addresses import make_play_address
from tests.clients.test_stream_browser import BITS, FRAMES_PER_SECOND, barcode
from tests.support.chromium import ChromiumBrowser
from tests.support.programs import require_program
from tests.support.sizes import MIB
from tests.support.stack import Stack
from tests.support.upload_client import OFFSET_CONTENT_TYPE, TUS_HEADERS, tus_metadata
from tests.support.waiting import eventually

SECONDS, WIDTH, HEIGHT = 30, 320, 176
FRAMES = SECONDS * FRAMES_PER_SECOND
PIECES_PER_SECOND = 20
PLAYING_FROM_SECOND = 2.0
PLAY_SCRIPT = """
const video = document.createElement('video');
video.id = 'v';
video.muted = true;
video.autoplay = true;
for (const name of ['playing', 'error', 'ended', 'stalled']) {
  video.addEventListener(name, () => { (window.heard ||= []).push(name); });
}
const canvas = document.createElement('canvas');
const context = canvas.getContext('2d', {willReadFrequently: true});
window.presented = [];
const look = (_, frame) => {
  canvas.width = frame.width;
  canvas.height = frame.height;
  context.drawImage(video, 0, 0);
  const row = context.getImageData(0, frame.height / 4, frame.width, 1).data;
  let code = 0;
  for (let bit = 0; bit < 16; bit++) {
    code = code * 2 + (row[4 * Math.floor((bit + 0.5) * frame.width / 16)] > 127 ? 1 : 0);
  }
  presented.push({at: Date.now() / 1000, time: frame.mediaTime, code});
  video.requestVideoFrameCallback(look);
};
video.requestVideoFrameCallback(look);
video.src = arguments[0];
document.documentElement.appendChild(video);
"""
STATE_SCRIPT = """
const video = document.getElementById('v');
const canvas = document.createElement('canvas');
canvas.width = video.videoWidth;
canvas.height = video.videoHeight;
let number = 0;
if (video.readyState >= 2) {
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  for (let bit = 0; bit < 16; bit++) {
    const x = Math.floor((bit + 0.5) * canvas.width / 16);
    number = number * 2 + (context.getImageData(x, canvas.height / 4, 1, 1).data[0] > 127 ? 1 : 0);
  }
}
return {time: video.currentTime, shown: number, duration: video.duration, heard: window.heard || [],
        error: video.error && video.error.message, ended: video.ended};
"""


@pytest.fixture(scope="module")
def film(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute with the index in front: barcodes above, and noise below, so that it has some megabytes."""
    target = tmp_path_factory.mktemp("film") / "film.mp4"
    noise = memoryview(random.Random(3).randbytes(1 << 20))
    frames = []
    for number in range(SECONDS * FRAMES_PER_SECOND):
        bars = (b"\xff" if barcode(number) >> (BITS - 1 - bit) & 1 else b"\x00" for bit in range(BITS))
        upper = b"".join(bar * (WIDTH // BITS) for bar in bars) * (HEIGHT // 2)
        start = number * 7919 % ((1 << 20) - WIDTH * HEIGHT)
        frames.append(upper + bytes(noise[start : start + WIDTH * HEIGHT // 2]))
    command = [ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}"]
    command += ["-r", str(FRAMES_PER_SECOND), "-i", "-", "-pix_fmt", "yuv420p", "-g", "50", "-c:v", "libx264"]
    command += ["-preset", "ultrafast", "-crf", "34", "-movflags", "+faststart", str(target)]
    subprocess.run(command, check=True, input=b"".join(frames), timeout=100)
    return target


class PacedUpload(threading.Thread):
    """Uploads a file through the gateway, paced to last `seconds`. Its events go to the socket `sid`."""

    def __init__(self, url: str, film: Path, seconds: float, filename: str, sid: str | None = None) -> None:
        super().__init__(daemon=True)
        self.film = film
        self.length = film.stat().st_size
        self.seconds = seconds
        self.status = 0
        self.first_byte_at = 0.0
        metadata = {"filename": filename} | ({"sid": sid} if sid else {})
        headers = {"upload-metadata": tus_metadata(**metadata), "upload-length": str(self.length)}
        created = httpx.post(f"{url}/file/tus", headers={**TUS_HEADERS, **headers})
        self.upload_url = url + created.headers["location"]
        address = make_play_address(self.upload_url.rpartition("/")[2])
        self.play_url = f"{url}/upload/{address}/stream"
        self.began = time.monotonic()
        self.start()

    def run(self) -> None:
        headers = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": "0", "content-length": str(self.length)}
        self.status = httpx.patch(self.upload_url, headers=headers, content=self._body(), timeout=60).status_code

    def _body(self) -> Iterator[bytes]:
        """The file in pieces, each when its time has come."""
        pieces = int(self.seconds * PIECES_PER_SECOND)
        began = time.monotonic()
        self.first_byte_at = time.time()
        with self.film.open("rb") as file:
            for number in range(pieces):
                time.sleep(max(0.0, began + number / PIECES_PER_SECOND - time.monotonic()))
                yield file.read(-(-self.length // pieces))

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def finish(self) -> None:
        self.join(2 * self.seconds + 60)
        assert self.status == 204


@pytest.fixture
def upload(stack: Stack, film: Path, request: pytest.FixtureRequest) -> Iterator[PacedUpload]:
    """An upload in eight seconds, two of which have passed; its file is deleted at the end."""
    filename = f"{request.node.name}.mp4"
    paced = PacedUpload(stack.url, film, 8.0, filename)
    time.sleep(max(0.0, 2.0 - paced.age))
    yield paced
    paced.finish()
    httpx.delete(f"{stack.url}/file/stream", params={"filename": filename})


def play_as_told(browser: ChromiumBrowser, stack: Stack, film: Path, seconds: float, filename: str) -> PacedUpload:
    """Start an upload that lasts `seconds`; at its event `file.playable` open a page that plays the address of the event."""
    with connect(f"{stack.url.replace('http', 'ws')}/ws", proxy=None) as socket:
        upload = PacedUpload(stack.url, film, seconds, filename, json.loads(socket.recv(10))["sid"])
        while (told := json.loads(socket.recv(10))).get("type") != "file.playable":
            pass
    assert told["data"]["playable"]
    browser.open_url(f"{stack.url}/livez")
    browser.evaluate(PLAY_SCRIPT, told["data"]["address"])
    return upload


def wait_for_frame(browser: ChromiumBrowser, time: float, timeout: float) -> dict[str, float]:
    """Wait until a frame behind a time of the film is presented, and return it."""

    def newest() -> dict[str, float] | None:
        last: dict[str, float] = browser.evaluate("return presented[presented.length - 1]")
        return last if last["time"] > time else None

    return eventually(newest, timeout, f"the frame at {time:.2f} s is presented")


def shows_its_number(frame: dict[str, float]) -> bool:
    """Whether the pixels are those of the frame at that time; the painted frame may be some ahead of the reported one."""
    number = round(frame["time"] * FRAMES_PER_SECOND)
    return frame["code"] in {barcode(near % FRAMES) for near in range(max(0, number - 1), number + 6)}


def assert_plays_from_the_second_second_on(browser: ChromiumBrowser, upload: PacedUpload, until: float) -> None:
    """The first frame is there within two seconds of the first byte, and playing goes on while the upload does."""
    first = eventually(lambda: browser.evaluate("return presented[0]"), description="a frame is presented")
    delay = first["at"] - upload.first_byte_at
    print(f"first frame {delay:.2f} s after the first byte of the upload")
    assert 0 < delay < PLAYING_FROM_SECOND
    assert shows_its_number(first)
    last = wait_for_frame(browser, until, until + 10)
    at = last["at"] - upload.first_byte_at
    assert upload.is_alive(), "it plays before the upload has ended"
    print(f"{last['time']:.2f} s are played {at:.2f} s after the first byte of the upload")
    assert at < PLAYING_FROM_SECOND + last["time"] + 1, "without a pause of more than a second in all"
    assert shows_its_number(last)


@pytest.mark.parametrize(
    ("size", "played"),
    [(64 * MIB, 3.0), pytest.param(1024 * MIB, 60.0, marks=[pytest.mark.long, pytest.mark.timeout(400)])],
)
def test_chromium_plays_from_the_second_second_of_an_upload_of_8_mib_a_second_on(
    browser: ChromiumBrowser, stack: Stack, film: Path, ffmpeg: str, tmp_path: Path, size: int, played: float
) -> None:
    """With a gibibyte that is more than an hour, whose index has more than a block."""
    repeated = tmp_path / "repeated.mp4"
    repeats = -(-size // film.stat().st_size)
    command = [ffmpeg, "-v", "error", "-nostdin", "-stream_loop", str(repeats), "-i", str(film), "-c", "copy"]
    subprocess.run([*command, "-movflags", "+faststart", str(repeated)], check=True, timeout=300)
    length = repeated.stat().st_size
    assert length >= size
    upload = play_as_told(browser, stack, repeated, length / (8 * MIB), "repeated.mp4")
    assert_plays_from_the_second_second_on(browser, upload, played)
    upload.finish()
    # Positions that were not there when playing began, by the same address and the same element.
    seconds = (repeats + 1) * SECONDS
    assert abs(browser.evaluate(STATE_SCRIPT)["duration"] - seconds) < 0.1
    for position in (seconds // 2 + 0.02, seconds - 2.98):
        browser.evaluate("document.getElementById('v').currentTime = arguments[0]; return 0", position)
        assert shows_its_number(wait_for_frame(browser, position + 0.5, 20))
    assert eventually(lambda: browser.evaluate(STATE_SCRIPT)["ended"], 20)
    state = browser.evaluate(STATE_SCRIPT)
    assert (state["error"], "error" in state["heard"]) == (None, False)
    httpx.delete(f"{stack.url}/file/stream", params={"filename": "repeated.mp4"})


def test_a_seek_beyond_what_is_there_waits_and_goes_on(
    browser: ChromiumBrowser, stack: Stack, upload: PacedUpload
) -> None:
    browser.open_url(f"{stack.url}/livez")
    browser.evaluate(PLAY_SCRIPT, upload.play_url.removeprefix(stack.url))
    eventually(lambda: browser.evaluate(STATE_SCRIPT)["time"] > 0.2)
    browser.evaluate("document.getElementById('v').currentTime = 25.02; return 0")
    assert upload.is_alive()
    codes = {barcode(number) for number in range(25 * FRAMES_PER_SECOND, SECONDS * FRAMES_PER_SECOND)}
    state = eventually(
        lambda: (found := browser.evaluate(STATE_SCRIPT))["time"] > 25.3 and found["shown"] in codes and found, 25
    )
    assert state["error"] is None


def test_ffprobe_and_ffmpeg_read_it_to_the_end(upload: PacedUpload, ffmpeg: str) -> None:
    ffprobe = require_program("ffprobe", "ffmpeg")
    command = [ffprobe, "-v", "error", "-of", "json", "-show_format", upload.play_url]
    probed = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    assert upload.is_alive(), "the index is enough"
    assert abs(float(probed["format"]["duration"]) - SECONDS) < 0.1
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", upload.play_url, "-f", "framemd5", "-"]
    frames = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    assert sum(not line.startswith(b"#") for line in frames.splitlines()) == SECONDS * FRAMES_PER_SECOND


def test_mpv_plays_it_to_the_end(upload: PacedUpload) -> None:
    mpv = require_program("mpv", "mpv")
    options = ["--no-config", "--vo=null", "--ao=null", "--untimed", "--msg-level=all=warn", "--no-terminal"]
    played = subprocess.run([mpv, *options, upload.play_url], capture_output=True, timeout=60, check=False)
    assert played.returncode == 0, played.stdout + played.stderr


def test_curl_gets_the_same_bytes(upload: PacedUpload) -> None:
    curl = require_program("curl", "curl")
    got = subprocess.run([curl, "-sS", "--fail", upload.play_url], capture_output=True, timeout=60, check=True)
    assert got.stdout == upload.film.read_bytes()
