"""The upload hook at POST /live: asked before the name is taken; what it changes holds for the stream and for its file."""

import json
from collections.abc import Iterator

import httpx
import pytest
from standardwebhooks import Webhook

from services.common.store.limits import BLOCK_SIZE
from services.common.webhooks.signing import make_secret
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream
from tests.support.processes import ServiceProcess
from tests.support.webhook_receiver import Receiver, Respond, answering, run_threaded_receiver

SECRET = make_secret()
MEDIA = init() + b"".join(fragment(2.0 * number, 2) for number in range(3))


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with run_threaded_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def live_settings(hook: Receiver) -> dict[str, str]:
    return {"GRIDCAST_UPLOAD_HOOK": json.dumps({"url": hook.url, "secret": SECRET})}


@pytest.fixture(autouse=True)
def asked(hook: Receiver) -> None:
    hook.respond = allow()
    hook.requests.clear()


def allow(**members: object) -> Respond:
    return answering(200, json.dumps({"allow": True, **members}).encode())


def make(live: ServiceProcess, filename: str, folder: str = "f") -> httpx.Response:
    return httpx.post(f"{live.url}/live", json={"filename": filename, "folder": folder}, timeout=30)


def test_it_is_asked_once_with_a_signed_event(live: ServiceProcess, hook: Receiver) -> None:
    client = make_stream(live, filename="asked.mp4", folder="f")
    assert client.post(MEDIA, "?end=1").status_code == 204
    [request] = hook.requests
    message = Webhook(SECRET).verify(request.body, request.headers)
    assert message["type"] == "upload.creating"
    known = {"folder": "f", "filename": "asked.mp4", "length": None, "content_type": "video/mp4"}
    assert message["data"] == {"protocol": "live", **known, "metadata": {}, "subject": None}


def test_a_denial_takes_no_name(live: ServiceProcess, hook: Receiver) -> None:
    hook.respond = answering(200, b'{"allow":false,"detail":"not on Sundays"}')
    answer = make(live, "denied.mp4")
    assert (answer.status_code, answer.json()["detail"]) == (403, "not on Sundays")
    hook.respond = allow(content_types=["audio/*"])
    assert make(live, "denied.mp4").status_code == 415
    hook.respond = allow(filename="../x")
    assert make(live, "denied.mp4").status_code == 502
    hook.respond = answering(500, b"")
    assert make(live, "denied.mp4").status_code == 503
    hook.respond = allow()
    assert make(live, "denied.mp4").status_code == 201


def test_a_request_that_cannot_be_is_not_asked_about(live: ServiceProcess, hook: Receiver) -> None:
    assert make(live, "../x").status_code == 400
    assert not hook.requests


def test_what_it_changes_holds_for_stream_and_file(
    live: ServiceProcess, library: ServiceProcess, hook: Receiver
) -> None:
    hook.respond = allow(folder="kept/here", filename="named.mp4", metadata={"course": "b"}, max_bytes=2 * BLOCK_SIZE)
    answer = make(live, "wanted.mp4")
    assert answer.status_code == 201
    made = answer.json()
    assert made["limits"]["bytes"] == 2 * BLOCK_SIZE
    client = LiveClient(live.url, made)
    assert (client.get()["folder"], client.get()["filename"]) == ("kept/here", "named.mp4")
    assert make(live, "wanted.mp4").status_code == 409, "that name is taken"
    assert client.post(MEDIA).status_code == 204
    ended = client.end()
    assert ended["file"]["filename"] == "named.mp4"
    query = {"folder": "kept/here", "filename": "named.mp4"}
    info = httpx.get(f"{library.url}/file/info", params=query, timeout=30).raise_for_status().json()
    assert info["metadata"] == {"course": "b"}


def test_its_limit_ends_the_stream_and_the_file_is_kept(live: ServiceProcess, hook: Receiver) -> None:
    hook.respond = allow(max_bytes=2 * BLOCK_SIZE)
    client = make_stream(live, filename="limited.mp4")
    long = init() + b"".join(fragment(2.0 * number, 2, fill=60_000) for number in range(6))
    assert client.post(long).status_code == 413
    described = client.get()
    assert described["state"] == "ended"
    assert described["file"]["length"] >= 2 * BLOCK_SIZE
