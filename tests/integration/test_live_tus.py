"""Live streams by tus: what is acknowledged is durable, any replica goes on, and the end is a file that seeks at once."""

import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import TUS, LiveClient, make_stream, media_of, probe, read_file, read_list
from tests.support.processes import ServiceProcess, run_service
from tests.support.scripted_upstream import open_connection
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def second(live_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Another replica."""
    with run_service("services.live", tmp_path_factory.mktemp("second"), live_env) as service:
        yield service


@pytest.fixture(scope="module")
def sample(live_sample: Path) -> bytes:
    return live_sample.read_bytes()


def test_a_stream_is_received_by_two_replicas_and_becomes_a_file_that_seeks(
    live: ServiceProcess, second: ServiceProcess, library: ServiceProcess, sample: bytes, tmp_path: Path
) -> None:
    """Row 2: cut anywhere, also in the middle of a box."""
    client = make_stream(live, title="A talk")
    assert client.made["state"] == "waiting"
    assert client.made["limits"]["bytes"] == 16 * 1024**3
    dice, offset, number = random.Random(7), 0, 0
    while offset < len(sample):
        client.url = (live, second)[number % 2].url
        number += 1
        size = dice.choice([1, 700, 9_000, 60_000])
        piece = sample[offset : offset + size]
        final = offset + len(piece) == len(sample)
        answer = client.patch(offset, piece, len(sample) if final else None)
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(offset + len(piece))), answer.text
        offset += len(piece)
        if number == 20:
            assert client.head().headers["upload-offset"] == str(offset)
            described = client.get()
            assert described["state"] == "live"
            assert described["segments"] > 0
            assert described["codecs"][0].startswith("avc1")
    described = client.get()
    assert (described["state"], described["reason"], described["segments"]) == ("ended", "complete", 6)
    assert described["duration"] == pytest.approx(12, abs=0.1)
    data = read_file(library, client)
    assert data[BLOCK_SIZE:] == media_of(sample)
    assert described["file"]["length"] == described["bytes"] == len(data)
    (path := tmp_path / "recording.mp4").write_bytes(data)
    said = probe(path)
    assert float(said["format"]["duration"]) == pytest.approx(12, abs=0.1)
    assert said["streams"][0]["nb_read_frames"] == "300"
    head = client.head()
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == (str(len(sample)), str(len(sample)))
    assert client.patch(len(sample), b"", len(sample)).status_code == 204
    # The answer to the last request may have been lost: what is repeated learns that all of it is there.
    again = client.patch(offset - len(piece), piece, len(sample))
    assert (again.status_code, again.headers["upload-offset"]) == (409, str(len(sample)))


@pytest.mark.parametrize("cut", [10, 200, -30], ids=["in a header", "in moof", "in mdat"])
def test_a_connection_that_is_cut_in_mid_box_goes_on_at_another_replica(
    live: ServiceProcess, second: ServiceProcess, library: ServiceProcess, cut: int
) -> None:
    """Row 2: HEAD there answers all that came, and the sender goes on in the same epoch without a gap."""
    client, last = make_stream(live, takeover=True), fragment(2, 2, fill=400)
    sent = init() + fragment(0, 2) + last + fragment(4, 2)
    came = len(init() + fragment(0, 2)) + cut % len(last)
    head = f"PATCH {client.made['tus']} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
    head += f"Content-Type: application/offset+octet-stream\r\nAuthorization: {client.auth['authorization']}\r\n"
    with open_connection(live.port, 15) as connection:
        connection.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent[:came])
        eventually(lambda: client.get()["segments"] == 1, 10, "it is received")
    client.url = second.url
    assert eventually(lambda: client.head().headers["upload-offset"] == str(came), 10, "all that came is durable")
    assert client.patch(came, sent[came:], len(sent)).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text).entries
    assert [(entry.seconds, entry.discontinuity) for entry in listed] == [(2, False)] * 3
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)


def test_an_end_by_request_keeps_what_is_complete_and_is_repeated(
    live: ServiceProcess, library: ServiceProcess
) -> None:
    client = make_stream(live)
    sent = init() + fragment(0, 1) + fragment(1, 1) + fragment(2, 1)
    client.patch(0, sent + fragment(3, 1)[:-10])
    described = client.end()
    assert (described["state"], described["reason"], described["segments"]) == ("ended", "ended", 2)
    assert described["file"]["filename"] == described["filename"]
    assert client.end()["file"] == described["file"]
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)
    assert client.patch(len(sent), b"x").status_code == 410


def test_a_stream_without_a_segment_leaves_no_file(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.patch(0, init()[:40]).status_code == 204
    described = client.end()
    assert (described["state"], described["file"], described["segments"]) == ("ended", None, 0)
    query = {"filename": described["filename"]}
    assert httpx.get(f"{library.url}/file/stream", params=query).status_code == 404
    again = make_stream(live, filename=described["filename"])
    httpx.delete(f"{again.url}/live/{again.id}").raise_for_status()
    assert httpx.get(f"{again.url}/live/{again.id}").status_code == 404
    assert again.head().status_code == 410
    stranger = {**again.auth, "authorization": f"Bearer {'A' * 43}"}
    assert httpx.head(f"{again.url}{again.made['tus']}", headers={**TUS, **stranger}).status_code == 403
    assert again.patch(0, init()).status_code == again.begin().status_code == 410
    assert again.post(init()).status_code == again.put("init.mp4", init()).status_code == 410
    assert again.put("list.m3u8", b"#EXTM3U").status_code == 410
    assert again.id not in httpx.get(f"{again.url}/live?state=ended").text
    assert httpx.post(f"{again.url}/live/{again.id}/end").status_code == 404


def test_the_name_of_a_stream_is_taken(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    name = client.get()["filename"]
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        make_stream(live, filename=name)
    client.patch(0, init() + fragment(0, 2))
    client.end()
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        make_stream(live, filename=name)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Bearer {'A' * 43}"}, 403),
        ({"tus-resumable": "0.2"}, 412),
        ({"upload-offset": "x"}, 400),
        ({"upload-offset": "5"}, 409),
        ({"upload-length": "-1"}, 400),
        ({"upload-length": "1"}, 400),
        ({"content-type": "text/plain"}, 415),
        ({"content-encoding": "gzip"}, 415),
    ],
)
def test_requests_that_are_refused_change_nothing(live: ServiceProcess, change: dict[str, str], status: int) -> None:
    client = make_stream(live)
    answer = client.patch(0, init(), None, **change)
    assert (answer.status_code, answer.headers["tus-resumable"]) == (status, "1.0.0"), answer.text
    assert client.head().headers["upload-offset"] == "0"
    assert client.get()["state"] == "waiting"


def test_a_second_source_begins_where_the_first_one_is_silent_or_may_be_replaced(live: ServiceProcess) -> None:
    client = make_stream(live)
    sent = init() + fragment(0, 2)
    client.patch(0, sent)
    refused = client.begin()
    assert (refused.status_code, refused.headers["retry-after"]) == (409, "5")
    assert client.head().headers["upload-offset"] == str(len(sent))
    other = make_stream(live, takeover=True)
    other.patch(0, sent)
    begun = other.begin()
    assert (begun.status_code, begun.headers["upload-offset"]) == (201, "0")
    source = begun.headers["location"].partition("?")[2]
    assert other.patch(len(sent), fragment(2, 2)).status_code == 409  # the first one
    assert other.patch(len(sent), fragment(2, 2), query="?source=1").status_code == 409
    assert other.patch(0, sent, query=f"?{source}").status_code == 204
    assert other.head(f"?{source}").headers["upload-offset"] == str(len(sent))
    described = other.end()
    assert (described["segments"], described["duration"]) == (2, 4)


def test_media_that_is_not_taken_is_refused_with_what_is(live: ServiceProcess) -> None:
    for data, name in (
        (b"\x1aE\xdf\xa3" + bytes(40), "WebM"),
        (init(codec=b"vp08"), "vp09"),
        (init().replace(b"mvex", b"free"), "mvex"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(12) + b"\x00\x00\x10\x00mdat" + bytes(100), "mdat before moov"),
    ):
        client = make_stream(live)
        answer = client.patch(0, data)
        assert (answer.status_code, name in answer.json()["detail"]) == (415, True), answer.text
        assert client.get()["state"] == "waiting"


def test_options_name_what_is_supported(live: ServiceProcess) -> None:
    client: LiveClient = make_stream(live)
    answer = httpx.options(f"{live.url}{client.made['tus']}")
    assert (answer.status_code, answer.headers["tus-extension"]) == (204, "creation,creation-defer-length")
    assert TUS["tus-resumable"] == answer.headers["tus-version"]
