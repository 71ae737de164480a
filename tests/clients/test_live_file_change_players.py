"""Players over a sender that goes on with another size: ffmpeg, hls.js and the page's own player, and each file by itself."""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import ChromiumBrowser, run_chromium
from tests.support.fragmented_mp4 import encode
from tests.support.hls_rules import check_playlist
from tests.support.live_client import LiveClient, make_stream, probe, read_file, read_list
from tests.support.npm import NpmPackages
from tests.support.processes import ServiceProcess

FRAMES = 300
"""Of one sample of 12 s."""
PAGE = Path(__file__).parents[2] / "gateway/page"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def samples(ffmpeg: str, live_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same picture in two sizes."""
    turned = tmp_path_factory.mktemp("turned") / "turned.mp4"
    encode(ffmpeg, turned, "90x160")
    return [live_sample.read_bytes(), turned.read_bytes()]


@pytest.fixture
def client(live: ServiceProcess) -> LiveClient:
    return make_stream(live)


def send(client: LiveClient, samples: list[bytes], *, pause: float = 0.0) -> None:
    """Send all samples as one source, and end the stream."""
    data = b"".join(samples)
    for offset in range(0, len(data), 50_000):
        piece = data[offset : offset + 50_000]
        length = len(data) if offset + len(piece) == len(data) else None
        assert client.patch(offset, piece, length).status_code == 204
        time.sleep(pause)


def test_files_and_list_are_decoded(
    library: ServiceProcess, client: LiveClient, samples: list[bytes], ffmpeg: str, tmp_path: Path
) -> None:
    """Every frame of both files; by the list up to a group of pictures, which FFmpeg loses by itself."""
    send(client, samples)
    files = client.get()["files"]
    assert len(files) == 2
    for number, (file, size) in enumerate(zip(files, ("160x90", "90x160"), strict=True)):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(read_file(library, client, file["filename"]))
        found = probe(path)
        assert int(found["streams"][0]["nb_read_frames"]) == FRAMES
        assert float(found["format"]["duration"]) == pytest.approx(12, abs=0.1)
        command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "stream=width,height"]
        pixels = subprocess.check_output([*command, "-of", "csv=p=0:s=x", str(path)], timeout=60)
        assert pixels.decode().strip() == size
        seek = ["ffprobe", "-v", "error", "-select_streams", "v", "-read_intervals", "9%+20", "-of", "csv=p=0"]
        times = subprocess.check_output([*seek, "-show_entries", "frame=pts_time", str(path)], timeout=60).split()
        assert float(times[0].rstrip(b",")) > 4, "it is sought by the index, not read from its start"
    url = f"{library.url}/live/{client.id}/index.m3u8"
    command = [ffmpeg, "-v", "error", "-nostdin", "-live_start_index", "0", "-i", url, "-map", "0:v"]
    lines = subprocess.check_output([*command, "-f", "framecrc", "-"], timeout=60).decode().splitlines()
    # FFmpeg 5.1 passes the second initialisation segment to its decoder one key frame late.
    assert 2 * FRAMES - 25 <= len([line for line in lines if not line.startswith("#")]) <= 2 * FRAMES


HLS_JS_PAGE = """
const [source, url, done] = arguments;
(0, eval)(source);
document.body.innerHTML = '<video muted></video>';
const video = document.querySelector('video');
const errors = [];
const hls = new Hls({startPosition: 0});
hls.on(Hls.Events.ERROR, (_, data) => data.fatal && errors.push(`${data.details}: ${data.error?.message}`));
hls.on(Hls.Events.MANIFEST_PARSED, () => { video.playbackRate = 4; video.play(); });
window.player = {video, errors};
hls.loadSource(url);
hls.attachMedia(video);
done('there');
"""
OWN_PAGE = """
const [source, url, done] = arguments;
(0, eval)(source);
document.body.innerHTML = '<video muted></video>';
const video = document.querySelector('video');
const errors = [];
new HlsSource(video, url, {start: 0, failed: (error) => errors.push(String(error))});
window.player = {video, errors};
video.addEventListener('loadeddata', () => { video.playbackRate = 4; video.play(); }, {once: true});
done('there');
"""
WATCH = """
const {video} = window.player;
window.player.sizes = [];
window.player.stepped = 0;
let before = video.currentTime;
video.addEventListener('seeking', () => (window.player.stepped += video.currentTime - before));
setInterval(() => {
  before = video.currentTime;
  const size = `${video.videoWidth}x${video.videoHeight}`;
  if (video.videoWidth && window.player.sizes.at(-1) !== size) window.player.sizes.push(size);
}, 20);
"""
STATE = """
const {video, errors, sizes, stepped} = window.player;
return {time: video.currentTime, ended: video.ended, error: video.error?.message ?? null, errors, sizes, stepped};
"""


@pytest.fixture(scope="module", params=["hls.js", "own"])
def player(
    request: pytest.FixtureRequest, npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A program that plays, and a script that starts it."""
    if request.param == "hls.js":
        folder = npm.require(tmp_path_factory.mktemp("hls"), ["hls.js"])
        return (folder / "node_modules/hls.js/dist/hls.js").read_text("utf-8"), HLS_JS_PAGE
    modules = "\n".join((PAGE / name).read_text("utf-8") for name in ("fmp4.js", "hls_list.js", "hls_source.js"))
    plain = re.sub(r"^import .*$|^export ", "", modules, flags=re.MULTILINE)
    return f"{plain}\nglobalThis.HlsSource = HlsSource;", OWN_PAGE


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromiumBrowser]:
    with run_chromium(tmp_path_factory.mktemp("chromium"), "--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


def wait_for(chromium: ChromiumBrowser, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    ends_at = time.monotonic() + PATIENCE
    while not matches(state := chromium.evaluate(STATE)):
        assert not state["errors"], state
        assert time.monotonic() < ends_at, state
        time.sleep(0.1)
    return dict(state)


def test_a_player_goes_on_over_the_change(
    library: ServiceProcess,
    client: LiveClient,
    samples: list[bytes],
    player: tuple[str, str],
    chromium: ChromiumBrowser,
) -> None:
    """It plays from the start while the second size is sent, then to the end."""
    sender = threading.Thread(target=send, args=(client, [*samples, samples[0]]), kwargs={"pause": 0.3})
    sender.start()
    while read_list(library, client).status_code != 200:
        time.sleep(0.05)
    program, start = player
    chromium.open_url(f"{library.url}/livez")
    assert chromium.run_script(start, program, f"{library.url}/live/{client.id}/index.m3u8") == "there"
    chromium.evaluate(WATCH)
    sender.join()
    state = wait_for(chromium, lambda state: state["ended"])
    assert state["time"] == pytest.approx(36, abs=0.5)
    assert state["sizes"] == ["160x90", "90x160", "160x90"]
    assert state["stepped"] < 1, "nothing is stepped over"
    assert state["error"] is None
    assert sum(entry.discontinuity for entry in check_playlist(read_list(library, client).text).entries) == 2
