"""A live stream from beginning to end, through one published port: ffmpeg publishes and plays."""

import json
import subprocess
from typing import Any, Protocol

import httpx
import pytest

from tests.support.hls_rules import check_playlist
from tests.support.programs import require_program
from tests.support.waiting import eventually

SECONDS = 8
MEDIA = (
    *("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25", "-f", "lavfi", "-i", "sine=440:sample_rate=48000"),
    *("-t", str(SECONDS), "-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-pix_fmt", "yuv420p", "-c:a", "aac"),
)
FRAGMENTS = ("-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "1000000")
# Without a kept connection ffmpeg goes away behind each object, and what a proxy in between has not passed on by then is lost.
OBJECTS = (
    "-f",
    "hls",
    "-hls_time",
    "2",
    "-hls_segment_type",
    "fmp4",
    "-hls_playlist_type",
    "event",
    "-http_persistent",
    "1",
)


class Server(Protocol):
    """A stack of any kind."""

    @property
    def url(self) -> str: ...


def publish(address: str, *options: str) -> "subprocess.Popen[bytes]":
    """Send media in real time."""
    command = [require_program("ffmpeg", "ffmpeg"), "-nostdin", "-v", "error", "-re", *MEDIA, *options]
    return subprocess.Popen([*command, "-method", "PUT", address])


@pytest.mark.parametrize("way", ["body", "objects"])
def test_a_stream_is_watched_while_it_is_sent_and_is_a_file_afterwards(stack: Server, way: str) -> None:
    name = {"folder": "live journey", "filename": f"{way}.mp4"}
    with httpx.Client(base_url=stack.url, timeout=30) as client:
        made = client.post("/live", json=name).raise_for_status().json()
        if way == "body":
            credential = f"Authorization: Bearer {made['publish_token']}\r\n"
            publisher = publish(f"{stack.url}{made['media']}", *FRAGMENTS, "-headers", credential)
        else:
            publisher = publish(f"{stack.url}{made['objects']}list.m3u8", *OBJECTS)
        try:
            playlist = f"/live/{made['id']}/media.m3u8"
            eventually(lambda: client.get(playlist).status_code == 200, 30, "the list is there")
            check_playlist(client.get(playlist).text)
            assert client.get(f"/live/{made['id']}").json()["state"] == "live"
            watched = ffprobe(f"{stack.url}{made['playlist']}")
            assert {stream["codec_name"] for stream in watched["streams"]} == {"h264", "aac"}
            assert publisher.wait(60) == 0
            # ffmpeg waits for no answer to its last object.
            eventually(
                lambda: client.get(f"/live/{made['id']}").json()["duration"] > SECONDS - 0.2, 15, "all is stored"
            )
        finally:
            publisher.kill()
            publisher.wait()
        ended = client.post(f"/live/{made['id']}/end").raise_for_status().json()
        assert ended["state"] == "ended"
        # Other replicas hear of the end by a message.
        eventually(lambda: check_playlist(client.get(playlist).text).ended, 10, "the list has its end")
        listing = check_playlist(client.get(playlist).text)
    assert sum(entry.seconds for entry in listing.entries) == pytest.approx(SECONDS, abs=0.2)
    file = f"{stack.url}/file/stream?{httpx.QueryParams(name)}"
    assert float(ffprobe(file)["format"]["duration"]) == pytest.approx(SECONDS, abs=0.2)
    decoded = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", file, "-f", "null", "-"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (decoded.returncode, decoded.stderr) == (0, b"")


def ffprobe(address: str) -> Any:
    command = [require_program("ffprobe", "ffmpeg"), "-v", "error", "-of", "json", "-show_streams", "-show_format"]
    return json.loads(subprocess.check_output([*command, address], timeout=60))
