"""Webhooks of a service: from an upload to a receiver, with endpoints of settings and API, dead letters and replays."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.support.databases import ServerProcess
from tests.support.processes import ServiceProcess, run_service
from tests.support.store_inspectors import StoreInspector
from tests.support.upload_client import put_file, run_garbage_collector
from tests.support.waiting import eventually
from tests.support.webhook_receiver import Receiver, answering, run_threaded_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of Standard Webhooks: the same in every worker of xdist


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with run_threaded_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def upload_settings(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    secret = tmp_path_factory.mktemp("secrets") / "settings"
    secret.write_text(f"{SECRET}\n", "ascii")
    endpoint = {"id": "settings", "url": receiver.url, "secret_file": os.fspath(secret)}
    return {"GRIDCAST_WEBHOOKS": json.dumps([endpoint]), "GRIDCAST_GC_INTERVAL": "1"}


@pytest.fixture(autouse=True)
def _fresh(inspector: StoreInspector, receiver: Receiver) -> None:
    receiver.respond = answering()
    receiver.requests.clear()


def get(upload: ServiceProcess, path: str, **params: Any) -> Any:
    answer = httpx.get(f"{upload.url}/webhooks/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(upload: ServiceProcess, path: str, body: Any = None) -> httpx.Response:
    return httpx.post(f"{upload.url}/webhooks/{path}", json=body)


def states(upload: ServiceProcess) -> list[tuple[str, str, int | None]]:
    return [(each["type"], each["state"], each["status"]) for each in get(upload, "deliveries")]


def test_from_an_upload_to_the_receiver(upload: ServiceProcess, receiver: Receiver, inspector: StoreInspector) -> None:
    created = put_file(upload, "n", b"1", folder="f").json()
    eventually(lambda: receiver.requests)
    put_file(upload, "n", b"2", folder="f")
    httpx.delete(f"{upload.url}/file/stream", params={"filename": "n", "folder": "f"})
    eventually(lambda: len(receiver.requests) == 3)
    found = [Webhook(SECRET).verify(request.body, request.headers) for request in receiver.requests]
    assert sorted(event["type"] for event in found) == ["file.created", "file.deleted", "file.replaced"]
    [first] = [event for event in found if event["type"] == "file.created"]
    assert first["data"] == created
    eventually(lambda: [state for _, state, _ in states(upload)] == ["done"] * 3)
    eventually(
        lambda: all(not document["announce"] for document in inspector.list_documents()), 5, "no event is left over"
    )
    [endpoint] = get(upload, "endpoints")
    assert SECRET not in json.dumps(endpoint)
    assert (endpoint["id"], endpoint["source"], endpoint["waiting"], endpoint["dead"], endpoint["ended"]) == (
        "settings",
        "settings",
        0,
        0,
        False,
    )


def test_endpoints_of_the_api(upload: ServiceProcess, inspector: StoreInspector) -> None:
    wanted = {"id": "made", "url": "https://192.0.2.1.nip.example/x", "events": ["file.created"], "folders": ["f"]}
    made = post(upload, "endpoints", wanted)
    assert made.status_code == 201, made.text
    described = made.json()
    secret = described.pop("secret")
    assert secret.startswith("whsec_")
    assert post(upload, "endpoints", wanted).status_code == 409
    assert [each["id"] for each in get(upload, "endpoints")] == ["settings", "made"]
    assert described in get(upload, "endpoints")
    assert secret not in json.dumps(get(upload, "endpoints"))
    remove = f"{upload.url}/webhooks/endpoints"
    assert httpx.delete(f"{remove}/settings").status_code == 409
    assert httpx.delete(f"{remove}/made").status_code == 204
    assert httpx.delete(f"{remove}/made").status_code == 404
    assert [each["id"] for each in get(upload, "endpoints")] == ["settings"]


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://app.example/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://[::ffff:10.0.0.1]/"},
        {"url": "https://u:p@app.example/"},
        {"id": "a b"},
        {"events": []},
        {"events": ["FILE"]},
        {"secret": SECRET},
        {"folders": "f"},
    ],
    ids=str,
)
def test_endpoints_with_a_fault_are_400(
    upload: ServiceProcess, inspector: StoreInspector, change: dict[str, Any]
) -> None:
    answer = post(upload, "endpoints", {"id": "made", "url": "https://app.example/", **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"].startswith("Validation Error: ")


def test_an_ended_endpoint_is_activated_and_its_dead_letter_sent_again(
    upload: ServiceProcess, receiver: Receiver, inspector: StoreInspector
) -> None:
    receiver.respond = answering(410)
    put_file(upload, "n", b"1")
    eventually(lambda: states(upload) == [("file.created", "dead", 410)])
    eventually(lambda: get(upload, "endpoints")[0]["ended"])
    assert get(upload, "endpoints")[0]["dead"] == 1
    receiver.respond = answering(204)
    assert post(upload, "endpoints/settings/activation").status_code == 204
    assert post(upload, "endpoints/unknown/activation").status_code == 404
    [dead] = get(upload, "deliveries", state="dead", endpoint="settings")
    assert post(upload, "replays", {"id": dead["id"]}).json() == {"replayed": 1}
    eventually(lambda: states(upload) == [("file.created", "done", 204)])
    assert {request.event_id for request in receiver.requests} == {dead["event_id"]}
    replayed = post(upload, "replays", {"endpoint": "settings", "state": "done", "since": "2020-01-01T00:00:00Z"})
    assert replayed.json() == {"replayed": 1}
    eventually(lambda: len(receiver.requests) == 3)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"id": "unknown"}, 404),
        ({"id": "a", "state": "dead"}, 400),
        ({"state": "waiting"}, 400),
        ({"since": "2020-01-01T00:00:00"}, 400),
        ({"since": "yesterday"}, 400),
        ({"endpoint": "unknown"}, 200),
        ({"until": "0001-01-01T00:00:00Z"}, 200),
        ({"since": "9999-12-31T23:59:59Z"}, 200),
        ({"x": 1}, 400),
    ],
    ids=str,
)
def test_replays_with_a_fault(
    upload: ServiceProcess, inspector: StoreInspector, body: dict[str, Any], status: int
) -> None:
    assert post(upload, "replays", body).status_code == status


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "state=lost", "limit=x", f"before={'a' * 101}"])
def test_lists_with_a_fault(upload: ServiceProcess, inspector: StoreInspector, query: str) -> None:
    assert httpx.get(f"{upload.url}/webhooks/deliveries?{query}").status_code == 400


def test_without_webhooks_there_is_no_api_and_nothing_waits(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path: Path, inspector: StoreInspector, env: dict[str, str]
) -> None:
    plain = {name: value for name, value in env.items() if name != "GRIDCAST_WEBHOOKS"}
    with run_service("services.upload", tmp_path, plain) as upload:
        assert put_file(upload, "n", b"1").status_code == 201
        for method, path in (("GET", "endpoints"), ("GET", "deliveries"), ("DELETE", "endpoints/a")):
            answer = httpx.request(method, f"{upload.url}/webhooks/{path}")
            assert (answer.status_code, "GRIDCAST_WEBHOOKS" in answer.json()["detail"]) == (404, True)
        eventually(lambda: not inspector.only_document()["announce"])


def test_what_a_killed_process_left_is_delivered_by_the_next_one(
    env: dict[str, str], receiver: Receiver, inspector: StoreInspector, tmp_path: Path, upload: ServiceProcess
) -> None:
    """The receiver has not answered, so the delivery is claimed by the process that is killed."""
    held: list[float] = []

    async def hold(_received: Any, writer: Any) -> None:
        held.append(time.monotonic())
        if len(held) > 1:
            await answering()(_received, writer)

    with run_service("services.upload", tmp_path, env) as doomed:
        receiver.respond = hold
        put_file(doomed, "n", b"1")
        eventually(lambda: held)
        os.kill(doomed.pid, signal.SIGKILL)
        eventually(lambda: not doomed.is_ready())
    run_garbage_collector(env)
    [delivery] = get(upload, "deliveries")
    assert post(upload, "replays", {"id": delivery["id"]}).json() == {"replayed": 1}
    eventually(lambda: states(upload) == [("file.created", "done", 200)])
    assert {request.event_id for request in receiver.requests} == {delivery["event_id"]}
