"""The user journey through the gateway with the whole stack running: upload, seek, push. Checked with curl and ffmpeg."""

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.process_stats import peak_memory
from tests.support.programs import require_program
from tests.support.stack import Stack
from tests.support.videos import SampleVideos

GIB = 1024**3


class Listener:
    """A WebSocket client that has its sid."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.first_frame = json.loads(connection.recv(5))
        self.sid: str = self.first_frame["sid"]

    def wait_for(self, event_type: str, timeout_seconds: float = 5.0, **data: Any) -> dict[str, Any]:
        """The next event of that type whose data has these members."""
        while True:
            event: dict[str, Any] = json.loads(self.connection.recv(timeout_seconds))
            if event.get("type") == event_type and data.items() <= event["data"].items():
                return event


@pytest.fixture
def listeners(stack: Stack) -> Iterator[list[Listener]]:
    """One client connected to each socket replica directly, and one through the gateway."""
    addresses = [stack.urls["socket-1"], stack.urls["socket-2"], stack.url]
    with contextlib.ExitStack() as open_:
        connections = [open_.enter_context(connect(address.replace("http", "ws", 1) + "/ws")) for address in addresses]
        yield [Listener(connection) for connection in connections]


@pytest.fixture
def folder() -> str:
    return f"demo-{uuid.uuid4().hex[:8]}"


def run_curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    curl = require_program("curl", "curl")
    return subprocess.run([curl, "-sS", *arguments], capture_output=True, check=True, timeout=100)


def stream_url(stack: Stack, folder: str, filename: str) -> str:
    return f"{stack.url}/file/stream?{urlencode({'folder': folder, 'filename': filename})}"


@pytest.mark.parametrize(("kind", "content_type"), [("webm", "video/webm"), ("mp4", "video/mp4")])
def test_upload_play_and_push(
    stack: Stack, listeners: list[Listener], sample_videos: SampleVideos, folder: str, kind: str, content_type: str
) -> None:
    path: Path = getattr(sample_videos, kind)
    form = ("-F", f"file=@{path}", "-F", f"folder={folder}")
    head, _, body = run_curl("-i", *form, f"{stack.url}/file/upload").stdout.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    assert b" 201 " in head.splitlines()[-1] or b"HTTP/1.1 201" in head
    identifier = json.loads(body)

    for listener in listeners:
        event = listener.wait_for("file.created", folder=folder)
        assert event["data"]["id"] == identifier
        assert event["source"] == "/upload"

    url = stream_url(stack, folder, path.name)
    data = path.read_bytes()
    answer = run_curl("-r", "1000-1999", "-D", "-", url).stdout
    head, _, part = answer.partition(b"\r\n\r\n")
    assert part == data[1000:2000]
    assert b"HTTP/1.1 206" in head
    assert f"content-type: {content_type}".encode() in head.lower()
    assert f"content-range: bytes 1000-1999/{len(data)}".encode() in head.lower()
    assert run_curl(url).stdout == data

    frame = ["-v", "error", "-nostdin", "-ss", "30", "-i", url, "-frames:v", "1", "-f", "rawvideo", "-"]
    over_http = subprocess.run([sample_videos.ffmpeg, *frame], capture_output=True, check=True, timeout=60)
    frame[frame.index(url)] = str(path)
    local = subprocess.run([sample_videos.ffmpeg, *frame], capture_output=True, check=True, timeout=60)
    assert over_http.stdout == local.stdout != b""


def test_ffprobe_reads_over_http(stack: Stack, sample_videos: SampleVideos, folder: str) -> None:
    require_program("ffprobe", "ffmpeg")
    with sample_videos.mp4.open("rb") as file:
        assert httpx.post(f"{stack.url}/file/upload?folder={folder}", files={"file": file}).status_code == 201
    show = ["ffprobe", "-v", "error", "-show_entries", "format=duration,size", "-of", "json"]
    told = subprocess.run(
        [*show, stream_url(stack, folder, sample_videos.mp4.name)], capture_output=True, check=True, timeout=60
    )
    said = json.loads(told.stdout)["format"]
    assert round(float(said["duration"])) == sample_videos.seconds
    assert int(said["size"]) == sample_videos.mp4.stat().st_size


def test_push_by_http_reaches_every_replica(stack: Stack, listeners: list[Listener]) -> None:
    marker = uuid.uuid4().hex
    everyone = httpx.post(f"{stack.url}/sockets/messages", json={"type": "news", "data": {"marker": marker}})
    assert everyone.is_success, everyone.text
    for listener in listeners:
        listener.wait_for("news", marker=marker)
        one = httpx.post(
            f"{stack.url}/sockets/{listener.sid}/messages", json={"type": "yours", "data": {"sid": listener.sid}}
        )
        assert one.is_success, one.text
        listener.wait_for("yours", sid=listener.sid)
        listener.connection.send('"ping"')
        assert json.loads(listener.connection.recv(5)) == {"pong": True}


def test_invalid_input_is_explained_through_the_gateway(stack: Stack, folder: str) -> None:
    def send(files: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(f"{stack.url}/file/upload", files=files, **options)

    answers = [
        send(files={"file": ("../x", b"x")}),
        send(files={"wrong": ("x", b"x")}),
        send(content=b"--b\r\n", headers={"content-type": "multipart/form-data; boundary=b"}),
        httpx.get(f"{stack.url}/file/info?filename="),
        httpx.get(f"{stack.url}/file/stream"),
    ]
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"].startswith("Validation Error: ")
    assert send(content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"}).status_code == 415
    missing = httpx.get(stream_url(stack, folder, "nothing"))
    assert (missing.status_code, missing.json()["detail"]) == (404, "file not found")
    unknown = httpx.get(f"{stack.url}/nowhere")
    assert unknown.status_code == 404
    wrong = httpx.patch(f"{stack.url}/file/stream")
    assert wrong.status_code == 405
    assert {"GET", "HEAD"} <= {method.strip() for method in wrong.headers["allow"].split(",")}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_gibibyte_passes_with_flat_memory(stack: Stack, folder: str, tmp_path: Path) -> None:
    """None of the four service processes grows by more than 64 MiB."""
    large = tmp_path / "large.bin"
    subprocess.run(["dd", "if=/dev/urandom", f"of={large}", "bs=1M", "count=1024"], check=True, capture_output=True)
    small = httpx.post(f"{stack.url}/file/upload?folder={folder}", files={"file": ("warm", b"x" * 5_000_000)})
    assert small.status_code == 201
    ours = {name: pid for name, pid in stack.pids.items() if name.partition("-")[0] not in {"mongod", "redis"}}
    for pid in ours.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
    before = {name: peak_memory(pid) for name, pid in ours.items()}
    answer = run_curl(
        "-F", f"file=@{large}", "-w", "\n%{http_code} %{speed_upload}", f"{stack.url}/file/upload?folder={folder}"
    )
    assert b"\n201 " in answer.stdout, answer.stdout
    grown = {name: round((peak_memory(pid) - before[name]) / 2**20, 1) for name, pid in ours.items()}
    print(f"\n1 GiB up: {answer.stdout.split()[-1].decode()} B/s, MiB grown: {grown}")
    assert max(grown.values()) <= 64
