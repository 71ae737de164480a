"""Live streams as one endless body: what a cut keeps, what begins an epoch, who may send, and what is too slow or too much."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import LiveClient, make_stream, media_of, probe, read_file, read_list
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    return {"GRIDCAST_LIVE_INTERRUPTED_AFTER": "1.5", "GRIDCAST_LIVE_GRACE": "3600"}


class Body:
    """One endless body over a connection of its own."""

    def __init__(self, client: LiveClient, address: str = "", **headers: str) -> None:
        url = urlsplit(client.url)
        self._socket = socket.create_connection((url.hostname, url.port), timeout=20)
        fields = {"host": url.netloc, "transfer-encoding": "chunked", **client.auth, **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        self._socket.sendall(f"POST {address or client.made['media']} HTTP/1.1\r\n{lines}\r\n".encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def finish(self) -> bytes:
        """End the body and return the answer."""
        self._socket.sendall(b"0\r\n\r\n")
        return self.answer()

    def answer(self) -> bytes:
        """What the service says, to the end of the connection or of the head."""
        received = b""
        while b"\r\n\r\n" not in received and (data := self._socket.recv(65536)):
            received += data
        return received

    def answer_rest(self) -> bytes:
        """What comes next."""
        return self._socket.recv(65536)

    def cut(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def body_of(client: LiveClient, *args: Any, **headers: str) -> Iterator[Body]:
    body = Body(client, *args, **headers)
    try:
        yield body
    finally:
        body.cut()


def wait_for_state(client: LiveClient, state: str) -> dict[str, Any]:
    eventually(lambda: client.get()["state"] == state, 15, f"the stream is {state}")
    return client.get()


def wait_for_bytes(client: LiveClient, count: int) -> None:
    eventually(lambda: client.get()["bytes"] >= BLOCK_SIZE + count, 15, "the bytes are stored")


def test_complete_fragments_are_kept_where_the_sender_is_killed(live: ServiceProcess, library: ServiceProcess) -> None:
    """Rows 1 and 3."""
    client = make_stream(live)
    sent = init() + fragment(0, 1) + fragment(1, 1) + fragment(2, 1)
    with body_of(client) as body:
        body.send(sent + fragment(3, 1)[:-20])
        wait_for_bytes(client, len(media_of(sent)))
    eventually(lambda: client.get()["segments"] == 2, 10, "what was open is listed")
    described = wait_for_state(client, "interrupted")
    assert described["duration"] == 3
    with body_of(client) as body:  # the wrapper of the encoder restarts it
        body.send(init() + fragment(0, 2))
        assert b" 204 " in body.finish()
    described = wait_for_state(client, "live")
    assert (described["segments"], described["duration"]) == (3, 5)
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:].startswith(media_of(sent))
    listed = check_playlist(read_list(library, client).raise_for_status().text).entries
    assert [(entry.seconds, entry.discontinuity) for entry in listed] == [(2, False), (1, False), (2, True)]


def test_a_body_that_ends_with_its_stream(live: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.post(init() + fragment(0, 2), query="?end=1").status_code == 204
    described = client.get()
    assert (described["state"], described["reason"], described["segments"]) == ("ended", "complete", 1)
    assert client.post(init()).status_code == 410  # row 21


def test_a_deleted_stream_cuts_its_body(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 21: its publisher is told that it has gone, viewers find nothing."""
    client = make_stream(live)
    with body_of(client) as body:
        body.send(init() + fragment(0, 2) + fragment(2, 2)[:100])
        eventually(lambda: client.get()["segments"] == 1, 10, "the body is received")
        assert httpx.delete(f"{live.url}/live/{client.id}", timeout=30).status_code == 204
        assert body.answer().split(b" ", 2)[1] in {b"409", b"410"}
    assert client.post(init()).status_code == 410
    assert httpx.get(f"{live.url}/live/{client.id}").status_code == 404
    assert read_list(library, client).status_code == 404


@pytest.mark.parametrize("sent", [init()[:100], init() + fragment(0, 2)[:300]], ids=["init", "between moof and mdat"])
def test_a_cut_before_the_first_fragment_leaves_a_stream_that_waits(
    live: ServiceProcess, library: ServiceProcess, sent: bytes
) -> None:
    """Row 3: without a list; objects of media are refused until an initialisation segment comes before them."""
    client = make_stream(live)
    with body_of(client) as body:
        body.send(sent)
    eventually(lambda: live.log.count(client.made["media"]) == 1, 10, "it has ended")
    described = client.get()
    assert (described["state"], described["segments"], described["duration"]) == ("waiting", 0, 0)
    assert read_list(library, client).status_code == 404
    assert client.put("1.m4s", fragment(0, 2)).status_code == 412
    assert client.put("init.mp4", init()).status_code == client.put("1.m4s", fragment(0, 2)).status_code == 200


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x1aE\xdf\xa3" + bytes(40), b"WebM; send fragmented MP4"),
        (b"OggS" + bytes(40), b"send fragmented MP4"),
        (init()[:24] + b"\x00\x00\x10\x00mdat", b"mdat before moov; send fragmented MP4"),
        (init(codec=b"vp08"), b"taken are "),
    ],
    ids=["webm", "ogg", "moov last", "vp8"],
)
def test_what_is_not_taken_is_refused_at_its_first_bytes(live: ServiceProcess, sent: bytes, reason: bytes) -> None:
    """Row 14: the body goes on, and is answered."""
    client = make_stream(live)
    with body_of(client) as body:
        body.send(sent)
        answer = body.answer()
        assert answer.startswith(b"HTTP/1.1 415 ")
        if not answer.partition(b"\r\n\r\n")[2]:
            answer += body.answer_rest()
        assert reason in answer
    assert client.get()["state"] == "waiting"


@pytest.mark.parametrize("takeover", [False, True])
def test_a_second_publisher(live: ServiceProcess, *, takeover: bool) -> None:
    """Row 18."""
    client = make_stream(live, takeover=takeover)
    with body_of(client) as first:
        first.send(init() + fragment(0, 2))
        eventually(lambda: client.get()["segments"] == 1, 10, "the first one has sent")
        if not takeover:
            refused = client.post(init() + fragment(0, 2))
            assert (refused.status_code, refused.headers["retry-after"]) == (409, "5")
            first.send(fragment(2, 2))
            assert b" 204 " in first.finish()
            assert client.get()["duration"] == 4
            return
        with body_of(client) as second:
            second.send(init() + fragment(0, 2))
            eventually(lambda: client.get()["segments"] == 2, 10, "the second one has sent")
            assert b" 409 " in first.answer()
            assert b" 204 " in second.finish()
        assert client.get()["duration"] == 4


def test_a_silent_publisher_is_no_reason_to_refuse_another(live: ServiceProcess) -> None:
    client = make_stream(live)
    with body_of(client) as first:
        first.send(init() + fragment(0, 2))
        wait_for_state(client, "interrupted")
        assert client.post(init() + fragment(0, 2)).status_code == 204
        assert client.get()["duration"] == 4
        with contextlib.suppress(OSError):
            first.send(fragment(2, 2))
        assert b" 409 " in first.answer()
    assert client.get()["duration"] == 4


def test_silence_interrupts_and_bytes_resume(live: ServiceProcess) -> None:
    """Row 16 and 37: nothing for a while is a state and never an end."""
    client = make_stream(live)
    with body_of(client) as body:
        body.send(init() + fragment(0, 2))
        wait_for_state(client, "interrupted")
        body.send(fragment(2, 2))
        assert wait_for_state(client, "live")["duration"] == 4
        assert b" 204 " in body.finish()


@pytest.mark.parametrize(
    ("address", "token", "status"),
    [
        ("/live/{id}/media", "", 401),
        ("/live/{id}/media", "Bearer wrong", 403),
        ("/live/{id}/key/wrong/media", "", 403),
        ("/live/{other}/key/{token}/media", "", 403),
        ("/live/unknown/key/{token}/media", "", 404),
        ("/live/{id}/key/{token}/media", "", 204),
    ],
)
def test_tokens(live: ServiceProcess, address: str, token: str, status: int) -> None:
    """The next object is refused, an endless body is cut where a fragment ends; the stream is interrupted."""
    client, other = make_stream(live), make_stream(live)
    path = address.format(id=client.id, other=other.id, token=client.made["publish_token"])
    fields = {"authorization": token} if token else {}
    answer = httpx.post(f"{live.url}{path}", content=init() + fragment(0, 2), headers=fields)
    assert answer.status_code == status
    if status == 403:
        assert "the publish token is not valid" in answer.text
    assert client.made["publish_token"] not in live.log


def test_ffmpeg_sends_one_endless_body(
    live: ServiceProcess, library: ServiceProcess, ffmpeg: str, tmp_path: Path
) -> None:
    client = make_stream(live)
    command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc=size=160x90:rate=25:duration=6"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p", "-f", "mp4"]
    command += ["-movflags", "frag_keyframe+empty_moov+default_base_moof", "-method", "PUT"]
    url = f"{live.url}/live/{client.id}/key/{client.made['publish_token']}/media"
    subprocess.run([*command, url], check=True, timeout=60)
    subprocess.run([*command, url], check=True, timeout=60)  # a wrapper restarts it: an epoch
    described = client.end()
    assert described["segments"] == 6
    (path := tmp_path / "recording.mp4").write_bytes(read_file(library, client))
    said = probe(path)
    assert float(said["format"]["duration"]) == pytest.approx(12, abs=0.1)
    assert said["streams"][0]["nb_read_frames"] == "300"


def test_a_replica_that_ends_closes_the_body_at_a_fragment(
    live_env: dict[str, str], live: ServiceProcess, tmp_path: Path
) -> None:
    """Row 27."""
    client = make_stream(live)
    with run_service("services.live", tmp_path, live_env) as leaving:
        client.url = leaving.url
        with body_of(client) as body:
            body.send(init() + fragment(0, 1) + fragment(1, 1)[:100])
            client.url = live.url
            wait_for_bytes(client, 100)
            os.kill(leaving.pid, signal.SIGTERM)
            body.send(fragment(1, 1)[100:])
            assert b" 503 " in body.answer()
    described = client.get()
    assert (described["segments"], described["duration"]) == (1, 2)


@pytest.mark.parametrize("way", ["body", "object"])
def test_a_token_that_ends_in_mid_stream(live_env: dict[str, str], tmp_path: Path, way: str) -> None:
    """The next object is refused, an endless body is cut where a fragment ends; the stream is interrupted."""
    env = live_env | {"GRIDCAST_LIVE_TOKEN_TTL": "3"}
    with run_service("services.live", tmp_path, env) as service:
        client = make_stream(service)
        if way == "object":
            assert client.put("0.mp4", init()).status_code == 200
            assert client.put("0.m4s", fragment(0, 2)).status_code == 200
            eventually(lambda: client.put("1.m4s", fragment(2, 2)).status_code == 403, 10, "the token has ended")
        else:
            with body_of(client) as body:
                body.send(init() + fragment(0, 2) + fragment(2, 1)[:100])
                assert b" 403 " in body.answer()
        assert wait_for_state(client, "interrupted")["segments"] >= 1
