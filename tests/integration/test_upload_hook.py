"""The upload hook: asked before anything is held or read, for PUT, form and tus alike; fails closed (cases 54 and 55)."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from services.common.webhooks.signing import make_secret
from tests.support.processes import ServiceProcess, run_service
from tests.support.store_inspectors import StoreInspector
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    OFFSET_CONTENT_TYPE,
    TUS_HEADERS,
    form_body,
    form_part,
    put_file,
    tus_metadata,
)
from tests.support.waiting import eventually
from tests.support.webhook_receiver import (
    Received,
    Receiver,
    Respond,
    answering,
    endless_body,
    run_threaded_receiver,
    silent,
    slow_head,
)

SECRET = make_secret()


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with run_threaded_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def upload_settings(hook: Receiver) -> dict[str, str]:
    return {"GRIDCAST_UPLOAD_HOOK": json.dumps({"url": hook.url, "secret": SECRET})}


@pytest.fixture(autouse=True)
def healthy_hook(upload: ServiceProcess, hook: Receiver) -> None:
    """The hook allows everything, and the breaker is closed."""
    hook.respond = allow()

    def is_closed() -> bool:
        answer = put_file(upload, "probe", b"", folder="probes")
        return answer.status_code != 503

    eventually(is_closed, 30, "the breaker is closed")
    hook.requests.clear()


def allow(**members: Any) -> Respond:
    return answering(200, json.dumps({"allow": True, **members}).encode())


def by_put(upload: ServiceProcess, name: str, data: bytes, folder: str = "") -> httpx.Response:
    return put_file(upload, name, data, folder=folder, content_type="video/webm")


def by_form(upload: ServiceProcess, name: str, data: bytes, folder: str = "") -> httpx.Response:
    body = form_body(form_part("folder", folder.encode()), form_part("file", data, name, "video/webm"))
    url = f"{upload.url}/file/upload"
    return httpx.post(
        url, params={"folder": folder}, content=body, headers={"content-type": FORM_CONTENT_TYPE}, timeout=30
    )


def by_tus(upload: ServiceProcess, name: str, data: bytes, folder: str = "") -> httpx.Response:
    headers = {
        **TUS_HEADERS,
        **OFFSET_CONTENT_TYPE,
        "upload-length": str(len(data)),
        "upload-metadata": tus_metadata(filename=name, folder=folder, filetype="video/webm"),
    }
    return httpx.post(f"{upload.url}/file/tus", content=data, headers=headers, timeout=30)


Send = Callable[..., httpx.Response]
every_protocol = pytest.mark.parametrize("send", [by_put, by_form, by_tus])


@every_protocol
def test_the_hook_is_asked_with_a_signed_event(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, send: Send
) -> None:
    assert send(upload, "n.webm", b"12345", "f").status_code == 201
    [request] = hook.requests
    message = Webhook(SECRET).verify(request.body, request.headers)
    assert (message["type"], message["id"]) == ("upload.creating", request.event_id)
    known = {
        "folder": "f",
        "filename": "n.webm",
        "length": 5,
        "content_type": "video/webm",
        "metadata": {},
        "subject": None,
    }
    if send is by_form:
        known |= {"filename": None, "length": None, "content_type": None}
    assert message["data"] == {"protocol": send.__name__[3:], **known}
    assert not {"authorization", "cookie"} & request.headers.keys()


def test_it_is_asked_before_the_body_is_read(upload: ServiceProcess, hook: Receiver, inspector: StoreInspector) -> None:
    """No `100 Continue` before the answer, and none after a denial."""
    hook.respond = answering(200, b'{"allow":false,"detail":"not today"}')
    with socket.create_connection(("127.0.0.1", upload.port), timeout=10) as connection:
        head = "PUT /file/stream?filename=n HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 403 ")
    assert b"not today" in received
    assert not inspector.list_documents()


@every_protocol
def test_a_denial_shows_its_text_and_begins_nothing(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, send: Send
) -> None:
    hook.respond = answering(200, b'{"allow":false,"detail":"no room for you"}')
    answer = send(upload, "n.webm", b"12345")
    assert (answer.status_code, answer.json()["detail"]) == (403, "no room for you")
    assert not inspector.list_documents()


BAD_ANSWERS: dict[str, Respond] = {
    "silent": silent,
    "slow head": slow_head,
    "endless body": endless_body,
    "500": answering(500, b'{"allow":true}'),
    "201": answering(201, b'{"allow":true}'),
    "204": answering(204),
    "HTML": answering(200, b"<p>yes</p>", content_type="text/html"),
    "HTML with JSON": answering(200, b'{"allow":true}', content_type="text/html"),
    "JSON type with HTML": answering(200, b"<p>yes</p>"),
    "a list": answering(200, b"[]"),
    "1 MiB": answering(200, b'{"allow":true}' + b" " * 1024 * 1024),
    "redirect": answering(307, b'{"allow":true}', fields="Location: /other\r\n"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_no_valid_answer_is_503_in_time_and_begins_nothing(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, kind: str
) -> None:
    hook.respond = BAD_ANSWERS[kind]
    send = [by_put, by_form, by_tus][sorted(BAD_ANSWERS).index(kind) % 3]
    started_at = time.monotonic()
    answer = send(upload, "n.webm", b"12345")
    assert time.monotonic() - started_at < 3.5
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert len(hook.requests) == 1
    assert not inspector.list_documents()


@every_protocol
def test_it_gives_name_and_metadata(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, send: Send
) -> None:
    hook.respond = allow(folder="given", filename="other.webm", metadata={"owner": "\u00e4"})
    assert send(upload, "n.webm", b"12345").status_code == 201
    document = inspector.find_document("other.webm")
    assert document is not None
    assert (document["folder"], json.loads(document["current"]["metadata"])) == ("given", {"owner": "\u00e4"})
    assert inspector.find_document("n.webm") is None
    assert send(upload, "n2.webm", b"12345").status_code == (200 if send is by_put else 409), "a name that is taken"


@every_protocol
@pytest.mark.parametrize(
    "answer", [{"filename": "../x"}, {"folder": "a/../b"}, {"allow": 1}, {"max_bytes": "9"}], ids=str
)
def test_a_fault_of_the_hook_is_502(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, send: Send, answer: dict[str, Any]
) -> None:
    hook.respond = allow(**answer)
    refused = send(upload, "n.webm", b"12345")
    assert (refused.status_code, "upload hook" in refused.json()["detail"]) == (502, True)
    assert not any(document["current"] for document in inspector.list_documents())


@every_protocol
def test_it_limits_size_and_media_types(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, send: Send
) -> None:
    hook.respond = allow(max_bytes=5)
    assert send(upload, "n.webm", b"123456").status_code == 413
    assert send(upload, "n.webm", b"12345").status_code == 201
    hook.respond = allow(content_types=["image/*"])
    assert send(upload, "m.webm", b"1").status_code == 415


def test_a_limit_holds_for_every_request_of_a_deferred_upload(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector
) -> None:
    hook.respond = allow(max_bytes=5, metadata={"a": "b"})
    metadata = {"upload-metadata": tus_metadata(filename="n.webm", c="d")}
    created = httpx.post(f"{upload.url}/file/tus", headers={**TUS_HEADERS, "upload-defer-length": "1", **metadata})
    assert created.status_code == 201
    url = f"{upload.url}{created.headers['location']}"
    hook.requests.clear()

    def patch(offset: int, data: bytes, **fields: str) -> int:
        headers = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": str(offset), **fields}
        return httpx.patch(url, content=data, headers=headers).status_code

    assert patch(0, b"123456") == 413
    assert patch(0, b"12345", **{"upload-length": "6"}) == 413
    assert patch(0, b"12345", **{"upload-length": "5"}) == 204
    document = inspector.find_document("n.webm")
    assert document is not None
    assert json.loads(document["current"]["metadata"]) == {"a": "b", "c": "d"}
    assert not hook.requests, "it is asked once"


def test_the_breaker_spares_a_hook_that_is_down(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector
) -> None:
    hook.respond = answering(500)
    answers = [by_put(upload, "n", b"1") for _ in range(12)]
    assert {answer.status_code for answer in answers} == {503}
    assert len(hook.requests) == 5
    hook.respond = allow()
    assert by_put(upload, "n", b"1").status_code == 503, "still open"
    eventually(lambda: by_put(upload, "n", b"1").status_code in {200, 201}, 20)


def test_uploads_at_the_same_time_are_asked_at_the_same_time(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector
) -> None:
    async def slowly(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await allow()(received, writer)

    hook.respond = slowly

    async def send_all() -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            sent = [client.put(f"{upload.url}/file/stream?filename=n{number}", content=b"1") for number in range(16)]
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    started_at = time.monotonic()
    assert asyncio.run(send_all()) == [201] * 16
    assert time.monotonic() - started_at < 3


def test_it_is_asked_for_owners_and_links_before_a_quota_is_reserved(
    upload: ServiceProcess, hook: Receiver, inspector: StoreInspector, env: dict[str, str], tmp_path: Path
) -> None:
    """A denied upload by a link does not use it up, and one that the quota has no room for is denied first."""
    with run_service("services.upload", tmp_path, {**env, **AUTH_ENV, "GRIDCAST_MAX_BYTES_PER_OWNER": "10"}) as service:
        asked = {"links": [{"folder": "f", "filename": "n", "kind": "put"}]}
        made = httpx.post(f"{service.url}/file/link", json=asked, headers=authorized("link read write", "alice"))
        assert made.status_code == 201, made.text
        address = f"{service.url}{made.json()['links'][0]['url']}"

        def begin(length: int) -> int:
            return httpx.post(address, headers={**TUS_HEADERS, "upload-length": str(length)}).status_code

        def put(length: int) -> int:
            stored = httpx.put(
                f"{service.url}/files/f/own", content=b"1" * length, headers=authorized("write", "alice")
            )
            return stored.status_code

        hook.respond = answering(200, b'{"allow":false}')
        assert (begin(11), put(11)) == (403, 403)
        asked_for = [json.loads(request.body)["data"] for request in hook.requests]
        assert [(each["filename"], each["subject"]) for each in asked_for] == [("n", "alice"), ("own", "alice")]
        assert not inspector.list_documents()
        hook.respond = allow()
        assert (begin(11), put(11)) == (507, 507)
        assert begin(3) == 201
        assert begin(3) == 409, "used"
