"""Players of live streams: ffmpeg and mpv play one while it grows, over two senders, and hls.js does in Chromium."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import ChromiumBrowser, run_chromium
from tests.support.databases import ServerProcess, storage_env
from tests.support.hls_rules import check_playlist
from tests.support.live_replicas import live_writer, prepare_store
from tests.support.live_writer import LiveWriter
from tests.support.npm import NpmPackages
from tests.support.processes import ServiceProcess, run_service
from tests.support.programs import require_program

pytestmark = pytest.mark.anyio

DATABASE = "test_stream_live_players"
FRAMES = 300
"""Of one sample of 12 s."""


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[ServiceProcess]:
    prepare_store(mongod, DATABASE)
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", tmp_path_factory.mktemp("live_players"), env) as service:
        yield service


@pytest.fixture
async def writer(mongod: ServerProcess, redis_server: ServerProcess) -> AsyncIterator[LiveWriter]:
    async with live_writer(mongod, redis_server.url, DATABASE) as writer:
        yield writer


@pytest.fixture
def sample(live_sample: Path) -> bytes:
    return live_sample.read_bytes()


async def publish(writer: LiveWriter, data: bytes, *, piece: int = 20_000, pause: float = 0.05) -> None:
    """Send a sample faster than it plays, so that a test is short."""
    for position in range(0, len(data), piece):
        await writer.send(data[position : position + piece])
        await asyncio.sleep(pause)


async def until_listed(service: ServiceProcess, writer: LiveWriter) -> str:
    url = f"{service.url}{writer.path}/index.m3u8"
    async with httpx.AsyncClient(timeout=20) as http, asyncio.timeout(30):
        while (await http.get(url)).status_code != 200:  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.05)
    return url


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        async with asyncio.timeout(90):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, output.decode("utf-8", "replace")
    return output.decode("utf-8", "replace")


async def test_ffmpeg_plays_a_growing_stream_of_two_senders_to_its_end(
    service: ServiceProcess, writer: LiveWriter, sample: bytes, ffmpeg: str
) -> None:
    """Every frame of both is decoded, and ffmpeg ends by itself."""
    sending = asyncio.create_task(publish(writer, sample))
    url = await until_listed(service, writer)
    command = [
        ffmpeg,
        "-v",
        "error",
        "-nostdin",
        "-live_start_index",
        "0",
        "-i",
        url,
        "-map",
        "0:v",
        "-f",
        "framemd5",
        "-",
    ]
    player = asyncio.create_task(run(*command))
    await sending
    await writer.begin_source()
    await publish(writer, sample)
    await writer.end()
    frames = [line for line in (await player).splitlines() if line and not line.startswith("#")]
    assert len(frames) == 2 * FRAMES
    digests = [line.rpartition(",")[2] for line in frames]
    assert digests[:FRAMES] == digests[FRAMES:]


async def test_mpv_plays_a_stream_to_its_end(service: ServiceProcess, writer: LiveWriter, sample: bytes) -> None:
    mpv = require_program("mpv", "mpv")
    sending = asyncio.create_task(publish(writer, sample))
    url = await until_listed(service, writer)
    options = ["--no-config", "--vo=null", "--ao=null", "--untimed", "--msg-level=all=error,cplayer=info"]
    player = asyncio.create_task(run(mpv, *options, "--demuxer-lavf-o=live_start_index=0", url))
    await sending
    await writer.end()
    assert "End of file" in await player


PAGE = """
const [source, url, done] = arguments;
(0, eval)(source);
document.body.innerHTML = '<video muted></video>';
const video = document.querySelector('video');
const errors = [];
const hls = new Hls({liveSyncDurationCount: 2, backBufferLength: 30});
hls.on(Hls.Events.ERROR, (_, data) => errors.push(`${data.details}${data.fatal ? ' fatal' : ''}`));
window.player = {video, hls, errors};
hls.on(Hls.Events.MANIFEST_PARSED, () => video.play());
hls.loadSource(url);
hls.attachMedia(video);
video.addEventListener('playing', () => done('playing'), {once: true});
setTimeout(() => done(`not playing: ${errors}`), 30000);
"""
STATE = """
const {video, hls, errors} = window.player;
const details = hls.latestLevelDetails ?? hls.levels[0]?.details;
return {stepped: window.player.stepped ?? 0, time: video.currentTime, start: video.seekable.length ? video.seekable.start(0) : -1,
  end: video.seekable.length ? video.seekable.end(0) : -1, live: details?.live, ended: video.ended, errors,
  playlist: details?.type, error: video.error?.message ?? null};
"""


PLAY_ON = """
const {video} = window.player;
window.player.stepped = 0;
let before = video.currentTime;
video.addEventListener('seeking', () => (window.player.stepped += video.currentTime - before));
setInterval(() => (before = video.currentTime), 20);
video.playbackRate = 3;
"""
"""From here on it plays three times as fast, and what it steps over is summed."""


async def check_list(service: ServiceProcess, writer: LiveWriter, *, ended: bool, discontinuities: int) -> None:
    """The list keeps the rules, which a parser of other people's reads as well, and has what is said here."""
    async with httpx.AsyncClient(timeout=20) as http, asyncio.timeout(20):
        while True:
            text = (await http.get(f"{service.url}{writer.path}/media.m3u8")).raise_for_status().text
            listing = check_playlist(text)
            if listing.ended == ended:  # this service hears of the end by a message
                break
            await asyncio.sleep(0.05)
    assert sum(entry.discontinuity for entry in listing.entries) == discontinuities


@pytest.fixture(scope="module")
def hls_js(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = npm.require(tmp_path_factory.mktemp("hls"), ["hls.js"])
    return (folder / "node_modules/hls.js/dist/hls.js").read_text("utf-8")


async def test_hls_js_plays_rewinds_and_ends(
    service: ServiceProcess, writer: LiveWriter, sample: bytes, hls_js: str, tmp_path: Path
) -> None:
    """In a page of the same origin. It joins near the edge, goes back to the start while live, and notices the end."""
    sending = asyncio.create_task(publish(writer, sample))
    url = await until_listed(service, writer)

    def in_browser(action: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(None, action)

    with run_chromium(tmp_path, "--autoplay-policy=no-user-gesture-required") as browser:
        chromium: ChromiumBrowser = browser
        await in_browser(lambda: chromium.open_url(f"{service.url}/livez"))
        assert await in_browser(lambda: chromium.run_script(PAGE, hls_js, url)) == "playing"
        await sending

        async def until(check: Any) -> dict[str, Any]:
            async with asyncio.timeout(40):
                while not check(state := await in_browser(lambda: chromium.evaluate(STATE))):
                    assert not [error for error in state["errors"] if error.endswith("fatal")], state
                    await asyncio.sleep(0.1)
            return dict(state)

        state = await until(lambda state: state["end"] > 9)
        assert state["live"]
        await check_list(service, writer, ended=False, discontinuities=0)
        assert state["start"] == pytest.approx(0, abs=0.2)
        await in_browser(lambda: chromium.evaluate("window.player.video.currentTime = 0"))
        await until(lambda state: 0.5 < state["time"] < 8)
        await writer.begin_source()
        await publish(writer, sample)
        await writer.end()
        await check_list(service, writer, ended=True, discontinuities=1)
        await until(lambda state: state["live"] is False and state["end"] > 23)
        await in_browser(lambda: chromium.evaluate("window.player.video.currentTime = 10"))
        await until(lambda state: 10 <= state["time"] < 11.5)
        await in_browser(lambda: chromium.evaluate(PLAY_ON))
        state = await until(lambda state: state["ended"])
        assert state["time"] == pytest.approx(24, abs=0.5)
        assert state["stepped"] < 1, "it plays over the other sender's first frame, and does not step over it"
        assert state["error"] is None
