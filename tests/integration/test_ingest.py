"""The ingest beside a local run: ffmpeg as OBS would send, by RTMP, SRT, MPEG-TS and WebM; ffprobe and ffmpeg as players."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.ingest.listeners import RTMP_REFUSAL
from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT, die_with_parent_command
from tests.support.hls_rules import check_playlist
from tests.support.programs import require_program
from tests.support.stack import Stack
from tests.support.waiting import eventually

KEY = "0123456789abcdefABCD"
SECONDS = 7
GRACE = "6"
"""Longer than a sender needs to come back, and ffmpeg to know its tracks."""
PICTURE = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25")
SOUND = ("-f", "lavfi", "-i", "sine=440:sample_rate=48000")
# Key frames are further apart than a segment is long, as OBS has them by default.
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "150", "-pix_fmt", "yuv420p")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k")


class Ingest:
    """A running ingest and its publishers."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.ports = dict(zip(("RTMP", "SRT", "TS", "WEBM"), free_ports(4), strict=True))
        ports = {f"INGEST_{name}_PORT": str(port) for name, port in self.ports.items()}
        self._log = folder / "ingest.log"
        environment = {**os.environ, **ports, "INGEST_URL": url, "INGEST_KEY": KEY, "INGEST_GRACE": GRACE}
        environment |= {"INGEST_FOLDER": "ingest", "INGEST_HEARTBEAT": str(folder / "alive")}
        with self._log.open("wb") as log:
            command = die_with_parent_command([sys.executable, "-m", "deploy.ingest"])
            self.process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def streams(self, protocol: str) -> list[str]:
        """The ids of the streams that were made for a protocol."""
        return re.findall(rf"{protocol}: stream (\w+), playlist", self.log)

    def address(self, protocol: str, key: str = KEY) -> str:
        port = self.ports[{"mpegts": "TS"}.get(protocol, protocol.upper())]
        match protocol:
            case "rtmp":
                return f"rtmp://{HOST}:{port}/live/{key}"
            case "srt":
                return f"srt://{HOST}:{port}?passphrase={key}"
            case _:
                return f"tcp://{HOST}:{port}"

    def publish(self, protocol: str, key: str = KEY, seconds: float = SECONDS) -> "subprocess.Popen[bytes]":
        """Send media in real time."""
        media = {"rtmp": "flv", "srt": "mpegts", "mpegts": "mpegts", "webm": "webm"}[protocol]
        codecs = VP8 if protocol == "webm" else (*SOUND, *H264, "-c:a", "aac")
        head = ("ffmpeg", "-nostdin", "-v", "error", "-re", *PICTURE)
        tail = ("-t", str(seconds), "-f", media, self.address(protocol, key))
        return subprocess.Popen([*head, *codecs, *tail], stderr=subprocess.DEVNULL)

    def publish_again(self, protocol: str, seconds: float) -> None:
        """Send media, as often as it takes until the listener is there again; every sender repeats."""
        eventually(lambda: self.publish(protocol, seconds=seconds).wait(30) == 0, 30, "it listens again")

    def get(self, stream_id: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/live/{stream_id}").raise_for_status().json()
        return found

    def has_ended(self, stream_id: str) -> bool:
        return bool(self.get(stream_id)["state"] == "ended")


@pytest.fixture(scope="module")
def ingest(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    require_program("ffmpeg", "ffmpeg")
    started = Ingest(stack.url, tmp_path_factory.mktemp("ingest"))
    try:
        eventually(
            lambda: all(is_bound(port) for name, port in started.ports.items() if name != "SRT"), 20, "it listens"
        )
        yield started
    finally:
        started.process.send_signal(signal.SIGTERM)
        code = started.process.wait(30)
    assert code == 0
    assert KEY not in started.log
    assert "Traceback" not in started.log


def is_bound(port: int) -> bool:
    """Whether a port is in use; a connection would be the one publisher that ffmpeg waits for."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


@pytest.fixture(scope="module")
def published(ingest: Ingest) -> dict[str, str]:
    """The stream of each protocol, when all publishers have left; they send at the same time."""
    publishers = {name: ingest.publish(name) for name in ("rtmp", "srt", "mpegts", "webm")}
    try:
        ids = {name: eventually(partial(ingest.streams, name), 30, name)[0] for name in publishers}
        watch_while_live(ingest, ids["rtmp"])
        assert {name: publisher.wait(60) for name, publisher in publishers.items()} == dict.fromkeys(publishers, 0)
    finally:
        for publisher in publishers.values():
            publisher.kill()
            publisher.wait()
    for name, stream_id in ids.items():
        eventually(partial(ingest.has_ended, stream_id), 30, f"{name} has ended")
    return ids


def watch_while_live(ingest: Ingest, stream_id: str) -> None:
    """Ffprobe opens the list of a stream whose publisher still sends."""
    playlist = f"{ingest.url}/live/{stream_id}/media.m3u8"
    eventually(lambda: httpx.get(playlist).status_code == 200, 30, "the list is there")
    seen = ffprobe(playlist, "-read_intervals", "%+0.5")
    assert ingest.get(stream_id)["state"] == "live"
    assert {stream["codec_name"] for stream in seen["streams"]} == {"h264", "aac"}


def ffprobe(address: str, *options: str) -> Any:
    command = [require_program("ffprobe", "ffmpeg"), "-v", "error", "-of", "json", *options]
    return json.loads(subprocess.check_output([*command, "-show_streams", "-show_format", address], timeout=60))


@pytest.mark.parametrize("protocol", ["rtmp", "srt", "mpegts", "webm"])
def test_each_protocol_becomes_a_list_and_a_file_that_play(
    ingest: Ingest, published: dict[str, str], protocol: str
) -> None:
    stream_id = published[protocol]
    state = ingest.get(stream_id)
    assert state["folder"] == "ingest"
    assert state["filename"].startswith(f"{protocol}-")
    listing = check_playlist(httpx.get(f"{ingest.url}/live/{stream_id}/media.m3u8").text)
    assert listing.ended
    assert not any(entry.discontinuity for entry in listing.entries)
    file = f"{ingest.url}/file/stream?folder=ingest&filename={state['filename']}"
    found = ffprobe(file)
    # SRT and MPEG-TS send media before there is a listener's first key frame: what cannot be decoded is left out.
    assert SECONDS - 1.5 < float(found["format"]["duration"]) < SECONDS + 0.5
    assert {one["codec_name"] for one in found["streams"]} == ({"h264"} if protocol == "webm" else {"h264", "aac"})
    decoded = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", file, "-f", "null", "-"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (decoded.returncode, decoded.stderr) == (0, b"")


@pytest.mark.parametrize("protocol", ["rtmp", "srt"])
def test_a_publisher_with_another_key_makes_no_stream(ingest: Ingest, published: dict[str, str], protocol: str) -> None:
    before = ingest.streams(protocol)
    assert published[protocol] in before
    assert ingest.publish(protocol, key="anotherkeyanotherkey").wait(30) != 0
    refusal = "with another key is refused" if protocol == "rtmp" else "Incorrect passphrase"
    eventually(lambda: refusal in ingest.log, 10, "the refusal")
    assert RTMP_REFUSAL.decode() not in ingest.log
    assert ingest.streams(protocol) == before


def test_a_publisher_that_comes_back_goes_on_with_its_stream(ingest: Ingest, published: dict[str, str]) -> None:
    del published
    before = len(ingest.streams("rtmp"))
    ingest.publish_again("rtmp", 4)
    (stream_id,) = eventually(lambda: ingest.streams("rtmp")[before:], 10, "the stream")
    eventually(lambda: f"the publisher of {stream_id} has left" in ingest.log, 10, "it has left")
    ingest.publish_again("rtmp", 4)
    eventually(partial(ingest.has_ended, stream_id), 20, "it has ended")
    assert ingest.streams("rtmp")[before:] == [stream_id]
    listing = check_playlist(httpx.get(f"{ingest.url}/live/{stream_id}/media.m3u8").text)
    assert sum(entry.discontinuity for entry in listing.entries) == 1
    assert sum(entry.seconds for entry in listing.entries) == pytest.approx(8, abs=0.5)
