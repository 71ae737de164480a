"""Publishers whose token ends, who were replaced, and whose replica ends: what each is answered, and what stays of the stream."""

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.integration.test_live_body import Body, body_of, wait_for_bytes, wait_for_state
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.processes import ServiceProcess, StartService, run_service
from tests.support.scripted_upstream import open_connection
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient

TOKEN_SECONDS = 5
LONG_LEASE = "30"
"""Seconds: who waited for it would be noticed."""


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    return {"GRIDCAST_LIVE_INTERRUPTED_AFTER": "1.5", "GRIDCAST_LEASE_TTL": LONG_LEASE}


def listed(library: ServiceProcess, client: LiveClient) -> dict[str, bytes]:
    """All that the list of a stream names, and the list."""
    url = f"{library.url}/live/{client.id}/media.m3u8"
    text = httpx.get(url, timeout=30).raise_for_status().text
    names = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert names
    found = {name: httpx.get(urljoin(url, name), timeout=30).raise_for_status().content for name in names}
    return {"": text.encode(), **found}


def test_a_token_that_ends_in_the_middle(live_env: dict[str, str], library: ServiceProcess, tmp_path: Path) -> None:
    """Row 19: the body is cut behind a complete fragment, whatever comes next is refused, and the stream is interrupted."""
    env = {**live_env, "GRIDCAST_LIVE_TOKEN_TTL": str(TOKEN_SECONDS)}
    with run_service("services.live", tmp_path, env) as service:
        by_body, by_objects, by_tus = (make_stream(service) for _ in range(3))
        last = fragment(3, 1)
        sent = init() + fragment(0, 2) + fragment(2, 1) + last
        with body_of(by_body) as body:
            body.send(sent[: -len(last) // 2])
            assert by_objects.put("seg0.m4s", init() + fragment(0, 2)).status_code == 200
            assert by_tus.patch(0, init() + fragment(0, 2)).status_code == 204
            at = len(init() + fragment(0, 2))
            eventually(lambda: by_objects.put("seg1.m4s", fragment(0, 2)).status_code == 403, 15, "the token has ended")
            body.send(sent[-len(last) // 2 :] + fragment(4, 2))
            assert b" 403 " in body.answer()
        eventually(lambda: by_tus.head().status_code == 403, 15, "the last token has ended, too")
        refused = by_tus.patch(at, fragment(2, 2))
        assert (refused.status_code, "the publish token is not valid" in refused.text) == (403, True)
        assert by_tus.head().status_code == 403
        assert by_body.post(init()).status_code == 403
        described = wait_for_state(by_body, "interrupted")
        assert (described["duration"], described["segments"]) in {(4, 2), (6, 3)}
        assert by_tus.get()["duration"] == by_objects.get()["duration"] == 2
        by_body.end()
        assert read_file(library, by_body)[BLOCK_SIZE:].startswith(media_of(sent))


def test_a_request_of_tus_ends_with_its_token(live_env: dict[str, str], tmp_path: Path) -> None:
    """Row 19: a PATCH that never ends is no way around it."""
    env = {**live_env, "GRIDCAST_LIVE_TOKEN_TTL": "3"}
    with run_service("services.live", tmp_path, env) as service:
        client = make_stream(service)
        head = (
            f"PATCH {urlsplit(client.made['tus']).path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nTransfer-Encoding: chunked\r\n"
            f"Authorization: {client.auth['authorization']}\r\n\r\n"
        )
        with open_connection(service.port, 15) as connection:
            media = init() + fragment(0, 2) + fragment(2, 2)
            connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(media), media))
            assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
        assert client.get()["duration"] == 4, "what came before is kept"


def test_a_publisher_that_wakes_up_behind_another_one_changes_nothing(
    live_env: dict[str, str], live: ServiceProcess, library: ServiceProcess, tmp_path: Path
) -> None:
    """Row 18: neither the list nor a byte of what it names."""
    with run_service("services.live", tmp_path, live_env) as sleeping:
        client = make_stream(live, takeover=True)
        at_sleeping = LiveClient(sleeping.url, client.made)
        with body_of(at_sleeping) as first:
            first.send(init() + fragment(0, 2) + fragment(2, 2) + fragment(4, 1))
            eventually(lambda: client.get()["segments"] >= 2, 10, "the first one has sent")
            os.kill(sleeping.pid, signal.SIGSTOP)
            try:
                first.send(fragment(5, 1) + fragment(6, 2))
                assert client.post(init() + fragment(0, 2, fill=900) + fragment(2, 2, fill=901)).status_code == 204
                before, described = listed(library, client), client.get()
            finally:
                os.kill(sleeping.pid, signal.SIGCONT)
            assert b" 409 " in first.answer()
        after = client.get()
        for what in ("bytes", "segments", "duration"):
            assert after[what] == described[what]
        assert listed(library, client) == before
        client.end()
        file = read_file(library, client)
        assert all(data in file for name, data in before.items() if name), "the file has the same bytes"


def test_objects_at_a_replica_that_ends(
    live_env: dict[str, str], live: ServiceProcess, library: ServiceProcess, tmp_path: Path
) -> None:
    """Row 27: 503 with Retry-After, and the same object is taken by another replica."""
    client = make_stream(live)
    with run_service("services.live", tmp_path, live_env) as leaving:
        client.url = leaving.url
        assert client.put("seg0.m4s", init() + fragment(0, 2)).status_code == 200
        data = fragment(2, 2)
        head = (
            f"PUT {client.made['objects']}seg1.m4s HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with open_connection(leaving.port, 15) as connection:
            connection.sendall(head.encode() + data[:100])
            eventually(lambda: client.get() is not None, 10, "it is answered behind the first bytes")
            os.kill(leaving.pid, signal.SIGTERM)
            eventually(lambda: not accepts(leaving.port), 10, "it shuts down")
            connection.sendall(data[100:])
            answer = connection.recv(65536).lower()
        assert answer.startswith(b"http/1.1 503 ")
        assert b"\r\nretry-after: " in answer
    client.url = live.url
    assert client.put("seg1.m4s", data).status_code == 200
    assert client.get()["duration"] == 4
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(init() + fragment(0, 2) + data)


def accepts(port: int) -> bool:
    """Whether a process still takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_bodies_at_a_replica_that_ends_say_when_to_come_again(
    live_env: dict[str, str], live: ServiceProcess, tmp_path: Path
) -> None:
    """Row 27."""
    client = make_stream(live)
    with (
        run_service("services.live", tmp_path, live_env) as leaving,
        body_of(LiveClient(leaving.url, client.made)) as body,
    ):
        body.send(init() + fragment(0, 2))
        wait_for_bytes(client, 100)
        os.kill(leaving.pid, signal.SIGTERM)
        answer = body.answer().lower()
    assert answer.startswith(b"http/1.1 503 ")
    assert b"\r\nretry-after: " in answer


@pytest.mark.parametrize("way", ["body", "objects"])
def test_a_replica_that_is_killed_is_not_waited_for(
    live_env: dict[str, str], live: ServiceProcess, library: ServiceProcess, start_service: StartService, way: str
) -> None:
    """Row 26: an object is sent again, a body loses at most the open segment, and the lease is not waited for."""
    killed = start_service("services.live", **live_env)
    client = make_stream(live, takeover=True)
    there = LiveClient(killed.url, client.made)
    first, second = init() + fragment(0, 2), fragment(2, 2)
    if way == "objects":
        assert there.put("seg0.m4s", first).status_code == 200
        with open_connection(killed.port) as connection:
            head = f"PUT {client.made['objects']}seg1.m4s HTTP/1.1\r\nHost: localhost\r\n"
            connection.sendall(f"{head}Content-Length: {len(second)}\r\n\r\n".encode() + second[:-1])
            os.kill(killed.pid, signal.SIGKILL)
        answered = [client.put("seg1.m4s", second), client.put("seg1.m4s", second)]
        assert [answer.status_code for answer in answered] == [200, 200]
        assert client.get()["duration"] == 4
    else:
        with body_of(there) as body:
            body.send(first + second + fragment(4, 1))
            eventually(lambda: client.get()["segments"] == 2, 10, "two segments are listed")
            os.kill(killed.pid, signal.SIGKILL)
        answered = [client.post(first)]
        assert answered[0].status_code == 204
        assert client.get()["duration"] in {6, 7}
    assert all(answer.elapsed.total_seconds() < float(LONG_LEASE) / 3 for answer in answered)
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:].startswith(media_of(first + second))


def test_a_body_of_another_connection_is_refused_until_the_first_is_silent(live: ServiceProcess) -> None:
    """Row 26: without takeover the next body says when to come again, and then is taken."""
    client = make_stream(live)
    body = Body(client)
    body.send(init() + fragment(0, 2))
    eventually(lambda: client.get()["segments"] == 1, 10, "it is listed")
    refused = client.post(init() + fragment(0, 2))
    assert (refused.status_code, refused.headers["retry-after"]) == (409, "5")
    body.cut()
    eventually(lambda: client.post(init() + fragment(0, 2)).status_code == 204, 10, "it is taken")


@pytest.mark.anyio
async def test_listeners_hear_that_nothing_comes(
    live_env: dict[str, str], live: ServiceProcess, start_service: StartService
) -> None:
    """Row 37: the event by which a page says that its tab is hidden or its lid closed, and that it goes on."""
    service = start_service("services.socket", GRIDCAST_REDIS_URL=live_env["GRIDCAST_REDIS_URL"])
    client = make_stream(live)
    listener = await WebSocketClient.connect(service)
    try:
        await listener.subscribe(f"live/{client.id}")
        sent = init() + b"".join(fragment(at, 2) for at in (0, 2, 4))
        assert client.patch(0, sent).status_code == 204
        assert (await listener.receive_event("live.started"))["data"]["id"] == client.id
        interrupted = await listener.receive_event("live.interrupted")
        assert set(interrupted["data"]) == {"id", "since"}
        assert client.patch(len(sent), fragment(6, 2)).status_code == 204
        assert (await listener.receive_event("live.resumed"))["data"] == {"id": client.id, "epoch": 0}
        assert client.get()["state"] == "live"
    finally:
        await listener.close()
