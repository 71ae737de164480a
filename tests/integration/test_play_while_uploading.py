"""GET and HEAD /upload/{address}/stream on running services: an upload is played while it goes on, on whatever replica."""

import hashlib
import os
import random
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest

from services.common.store.play_addresses import make_play_address
from tests.support.processes import ServiceProcess, StartService, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    TUS_HEADERS,
    TusUpload,
    form_body,
    form_part,
    throttled,
    tus_metadata,
)
from tests.support.uploader_socket import CLIENT_SID, UploaderSocket
from tests.support.waiting import eventually

FTYP = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41"
MOOV = (3008).to_bytes(4, "big") + b"moov" + bytes(3000)
BODY = random.Random(7).randbytes(20 * CHUNK_SIZE + 777)
DATA = FTYP + MOOV + (8 + len(BODY)).to_bytes(4, "big") + b"mdat" + BODY
HALF = 9 * CHUNK_SIZE + 1000


@pytest.fixture(scope="module")
def stream(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("services.stream", tmp_path_factory.mktemp("stream"), env) as service:
        yield service


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {"GRIDCAST_GC_INTERVAL": "0", "GRIDCAST_LEASE_TTL": "5"}


class Player(threading.Thread):
    """Reads one response to its end, in the background."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(daemon=True)
        self.url, self.headers = url, headers or {}
        self.received = b""
        self.status = 0
        self.fields = httpx.Headers()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("GET", self.url, headers=self.headers, timeout=30) as response:
                self.status, self.fields = response.status_code, response.headers
                for piece in response.iter_bytes():
                    self.received += piece
        except httpx.HTTPError as error:
            self.error = error

    def finish(self) -> bytes:
        """Wait for the end of the response, and return its body."""
        self.join(30)
        assert not self.is_alive()
        return self.received


def begin(*uploads: ServiceProcess, length: int | None = len(DATA)) -> tuple[TusUpload, str]:
    """A tus upload and its play address."""
    tus = TusUpload(*uploads)
    headers = {"upload-metadata": tus_metadata(filename="p.mp4")}
    tus.create(length=length, headers=headers if length is not None else {**headers, "upload-defer-length": "1"})
    address = make_play_address(tus.path.rpartition("/")[2])
    return tus, f"/upload/{address}/stream"


@pytest.fixture
def ear(redis_url: str, inspector: MongoInspector) -> Iterator[UploaderSocket]:
    with UploaderSocket.listening(redis_url) as socket:
        yield socket


@pytest.fixture
def half(upload: ServiceProcess, stream: ServiceProcess, inspector: MongoInspector) -> tuple[TusUpload, str]:
    """An upload with its first half, and the URL to play it."""
    tus, path = begin(upload)
    assert tus.patch(0, DATA[:HALF]).status_code == 204
    return tus, stream.url + path


def test_ranges_of_what_is_there_as_of_the_whole_file(half: tuple[TusUpload, str]) -> None:
    _, url = half
    answer = httpx.get(url, headers={"range": "bytes=100-4999"})
    assert answer.status_code == 206
    assert answer.content == DATA[100:5000]
    assert answer.headers["content-range"] == f"bytes 100-4999/{len(DATA)}"
    assert answer.headers["content-length"] == "4900"
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["accept-ranges"] == "bytes"
    assert "p.mp4" not in str(answer.headers), "the name is not visible before the commit"
    head = httpx.head(url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
    etag = answer.headers["etag"]
    for condition, status in ((etag, 206), ('"another"', 200)):
        with httpx.stream("GET", url, headers={"range": "bytes=1-2", "if-range": condition}) as response:
            assert response.status_code == status
    beyond = httpx.get(url, headers={"range": f"bytes={len(DATA)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    for first, last in ((HALF - 10, HALF - 1), (CHUNK_SIZE - 1, CHUNK_SIZE), (0, HALF - 1), (8 * CHUNK_SIZE, HALF - 1)):
        answer = httpx.get(url, headers={"range": f"bytes={first}-{last}"})
        assert answer.content == DATA[first : last + 1]


def test_one_response_goes_on_through_a_killed_replica_and_the_commit(
    upload: ServiceProcess,
    stream: ServiceProcess,
    inspector: MongoInspector,
    start_service: StartService,
    env: dict[str, str],
) -> None:
    killed = start_service("services.upload", **env)
    tus, path = begin(upload, killed)
    player = Player(stream.url + path)
    from_third = Player(stream.url + path, {"range": f"bytes={3 * CHUNK_SIZE}-"})
    with tus.open_patch(killed, 0, len(DATA)) as connection:
        connection.sendall(DATA[:HALF])
        eventually(lambda: len(player.received) >= CHUNK_SIZE)
        os.kill(killed.pid, signal.SIGKILL)
    offset = eventually(tus.offset)
    assert 0 < offset < len(DATA)
    assert tus.patch(offset, DATA[offset : offset + 3 * CHUNK_SIZE]).status_code == 204
    eventually(lambda: len(player.received) >= offset + CHUNK_SIZE)
    offset += 3 * CHUNK_SIZE
    assert tus.patch(offset, DATA[offset:]).status_code == 204
    assert player.finish() == DATA
    assert (player.status, player.fields["content-length"]) == (200, str(len(DATA)))
    assert from_third.finish() == DATA[3 * CHUNK_SIZE :]
    after = httpx.get(stream.url + path, headers={"range": "bytes=5-", "if-range": player.fields["etag"]})
    assert (after.status_code, after.content) == (206, DATA[5:]), "the same address goes on after the commit"
    stored = httpx.get(f"{stream.url}/file/stream?filename=p.mp4")
    assert stored.headers["etag"] == f'"sha256-{hashlib.sha256(DATA).hexdigest()}"'
    httpx.delete(f"{upload.url}/file/stream?filename=p.mp4").raise_for_status()
    assert eventually(lambda: httpx.get(stream.url + path).status_code == 410)


@pytest.mark.parametrize("way", ["put", "form", "form without a folder"])
def test_the_other_ways_of_uploading_are_played_too(
    upload: ServiceProcess, stream: ServiceProcess, ear: UploaderSocket, way: str
) -> None:
    """Their uploads have no id that a client knows: the address comes by the event."""
    players: list[Player] = []

    def paced(body: bytes) -> Iterator[bytes]:
        yield body[: 2 * CHUNK_SIZE]
        players.append(Player(stream.url + eventually(ear.playable)[0]["address"]))
        for number, piece in enumerate(throttled(body[2 * CHUNK_SIZE :], CHUNK_SIZE // 2, 0.05)):
            yield piece
            if number == 30:
                eventually(lambda: len(players[0].received) >= 2 * CHUNK_SIZE)

    if way == "put":
        query = {"filename": "p.mp4", "sid": CLIENT_SID}
        headers = {"content-length": str(len(DATA))}
        answer = httpx.put(f"{upload.url}/file/stream", params=query, content=paced(DATA), headers=headers, timeout=60)
    else:
        folder = [] if way.endswith("folder") and way != "form" else [form_part("folder", b"f")]
        body = form_body(form_part("sid", CLIENT_SID.encode()), *folder, form_part("file", DATA, "p.mp4"))
        headers = {"content-type": FORM_CONTENT_TYPE}
        answer = httpx.post(f"{upload.url}/file/upload", content=paced(body), headers=headers, timeout=60)
    assert answer.status_code == 201
    assert players[0].finish() == DATA
    assert ("content-length" in players[0].fields) is (way == "put")
    after = httpx.get(players[0].url, headers={"range": "bytes=7-"})
    assert (after.status_code, after.content) == (206, DATA[7:])


def test_without_a_length_ranges_end_with_what_is_there(
    upload: ServiceProcess, stream: ServiceProcess, inspector: MongoInspector
) -> None:
    tus, path = begin(upload, length=None)
    url = stream.url + path
    assert tus.patch(0, DATA[:HALF]).status_code == 204
    answer = httpx.get(url, headers={"range": "bytes=10-"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes 10-{HALF - 1}/*"
    assert answer.content == DATA[10:HALF]
    assert "etag" not in answer.headers
    head = httpx.head(url, headers={"range": "bytes=0-"})
    assert (head.status_code, head.headers["content-range"]) == (206, f"bytes 0-{HALF - 1}/*")
    everything = Player(url)
    live = Player(url, {"range": f"bytes=1000-{2**53 - 1}"})
    eventually(lambda: len(everything.received) == HALF and len(live.received) == HALF - 1000)
    assert tus.patch(HALF, DATA[HALF:]).status_code == 204
    assert tus.patch(len(DATA), b"", headers={"upload-length": str(len(DATA))}).status_code == 204
    assert everything.finish() == DATA
    assert live.finish() == DATA[1000:]
    assert live.fields["content-range"] == f"bytes 1000-{2**53 - 1}/*"
    assert "content-length" not in everything.fields


def test_an_aborted_upload_resets_its_players_and_is_gone(half: tuple[TusUpload, str]) -> None:
    tus, url = half
    player = Player(url)
    eventually(lambda: len(player.received) == HALF)
    assert tus.delete().status_code == 204
    assert player.finish() == DATA[:HALF]
    assert isinstance(player.error, httpx.TransportError), "half a file that looks whole is worse than none"
    answer = httpx.get(url)
    assert (answer.status_code, answer.json()["status"]) == (410, 410)


def test_an_address_reads_and_does_not_write(half: tuple[TusUpload, str], stream: ServiceProcess) -> None:
    tus, url = half
    address = url.split("/")[-2]
    for method in ("PATCH", "DELETE", "HEAD"):
        headers = {**TUS_HEADERS, "upload-offset": str(HALF), "content-type": "application/offset+octet-stream"}
        refused = httpx.request(method, f"{tus.urls[0]}/file/tus/{address}", headers=headers)
        assert refused.status_code in {404, 410}, method
    wrong = address[:-1] + ("0" if address[-1] != "0" else "1")
    assert httpx.get(f"{stream.url}/upload/{wrong}/stream").status_code == 410
    assert httpx.get(f"{stream.url}/upload/{tus.path.rpartition('/')[2]}/stream").status_code == 410
    for malformed in ("x", address.upper(), address + "0"):
        assert httpx.get(f"{stream.url}/upload/{malformed}/stream").status_code == 404, malformed
    for method in ("PUT", "DELETE", "POST", "PATCH"):
        refused = httpx.request(method, url)
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert tus.offset() == HALF
    tag = address.rpartition("-")[2]
    eventually(lambda: f"/upload/{address[: -len(tag)]}" in stream.log)
    assert tag not in stream.log
