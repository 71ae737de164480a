"""Events of an upload: progress to one socket, changes to all, also when the service dies between commit and publication."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis as redis_py

from tests.support.databases import ServerProcess
from tests.support.fault_proxy import Fault, run_fault_proxy
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    TusUpload,
    form_body,
    form_part,
    put_file,
    run_garbage_collector,
    throttled,
    tus_metadata,
)
from tests.support.waiting import eventually

CLIENT_SID = "A" * 52


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {
        "GRIDCAST_GC_INTERVAL": "0",
    }


class EventListener:
    """Subscribes as a socket replica does, and registers CLIENT_SID as a socket of its own."""

    def __init__(self, url: str) -> None:
        self.redis = redis_py.Redis.from_url(url, protocol=2)
        self.redis.hset(f"gridcast:sid:{CLIENT_SID}", "node", "ear")
        self.redis.set("gridcast:node:ear", "1")
        self.pubsub = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self.pubsub.subscribe("gridcast:all", "gridcast:node:ear", "gridcast:invalidate")
        self.heard: list[tuple[str, Any]] = []
        self.times: list[float] = []

    def collect(self, quiet_seconds: float = 0.3) -> list[tuple[str, Any]]:
        """Everything received until nothing arrives for `quiet_seconds`."""
        quiet_at = time.monotonic() + quiet_seconds
        while (left := quiet_at - time.monotonic()) > 0:
            if (message := self.pubsub.get_message(timeout=left)) is None:
                continue
            quiet_at = time.monotonic() + quiet_seconds
            text: bytes = message["data"]
            channel = message["channel"].decode()
            self.heard.append((channel, json.loads(text.partition(b"\n")[2] or text)))
            self.times.append(time.monotonic())
        return self.heard

    def events(self, kind: str) -> list[Any]:
        return [
            event for channel, event in self.collect() if channel != "gridcast:invalidate" and event["type"] == kind
        ]


@pytest.fixture
def event_listener(redis_url: str, upload: ServiceProcess) -> Iterator[EventListener]:
    ear = EventListener(redis_url)
    with contextlib.closing(ear.pubsub), contextlib.closing(ear.redis):
        assert ear.collect(0.1) == []
        yield ear


def test_changes_are_broadcast(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    created = put_file(upload, "a.webm", b"one", "f")
    put_file(upload, "a.webm", b"two!", "f")
    httpx.delete(f"{upload.url}/file/stream?filename=a.webm&folder=f")
    heard = event_listener.collect()
    said = [event for channel, event in heard if channel == "gridcast:all"]
    assert [event["type"] for event in said] == ["file.created", "file.replaced", "file.deleted"]
    assert {event["data"]["id"] for event in said} == {created.json()["id"]}
    assert [event["data"]["length"] for event in said] == [3, 4, 4]
    assert all((event["source"], event["specversion"]) == ("/upload", "1.0") for event in said)
    # The cache is invalidated before the broadcast, so that no client that gets the event reads the old file.
    assert [channel for channel, _ in heard] == ["gridcast:invalidate", "gridcast:all"] * 3
    assert heard[0][1] == ["f", "a.webm"]
    eventually(lambda: all(document["announce"] == [] for document in inspector.list_documents()))


def test_moves_and_restorations_are_broadcast(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    file_id = put_file(upload, "a.webm", b"one", "f").json()["id"]
    for query, body in (
        ("folder=f&filename=a.webm", {"filename": "b.webm"}),
        ("folder=f&filename=b.webm", {"folder": "secret"}),
    ):
        assert httpx.patch(f"{upload.url}/file?{query}", json=body).status_code == 200
    httpx.delete(f"{upload.url}/file/stream?filename=b.webm&folder=secret")
    assert httpx.post(f"{upload.url}/file/restore?filename=b.webm&folder=secret").status_code == 200
    heard = event_listener.collect()
    said = [(event["type"], event["data"]) for channel, event in heard if channel == "gridcast:all"]
    assert [(type_, data["folder"], data["filename"]) for type_, data in said] == [
        ("file.created", "f", "a.webm"),
        ("file.moved", "f", "b.webm"),
        ("file.moved", "secret", "b.webm"),
        ("file.deleted", "f", "b.webm"),  # for those who cannot read the new folder
        ("file.deleted", "secret", "b.webm"),
        ("file.restored", "secret", "b.webm"),
    ]
    assert {data["id"] for _, data in said} == {file_id}
    assert said[1][1]["previous"] == {"folder": "f", "filename": "a.webm", "revision": 2}
    assert said[2][1]["previous"] is None
    # What a client knows by the id is never taken for older than what comes behind it, but for the old name's deletion.
    revisions = [data["revision"] for _, data in said]
    assert revisions[3] < revisions[2] < revisions[4] < revisions[5]
    invalidated = [event for channel, event in heard if channel == "gridcast:invalidate"]
    assert ["f", "a.webm"] in invalidated[1:]
    assert ["f", "b.webm"] in invalidated[2:]
    eventually(lambda: all(document["announce"] == [] for document in inspector.list_documents()))


def test_events_carry_the_media_facts_of_the_version(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    gif = b"GIF89a\x03\0\x02\0" + bytes(3)
    facts: dict[str, Any] = {
        "kind": "image",
        "duration": None,
        "width": 3,
        "height": 2,
        "codecs": [],
        "rotation": 0,
        "tags": {},
    }
    put_file(upload, "m.gif", gif)
    put_file(upload, "m.gif", b"text")
    put_file(upload, "m.gif", gif)
    httpx.delete(f"{upload.url}/file/stream?filename=m.gif")
    said = [event["data"]["media_facts"] for channel, event in event_listener.collect() if channel == "gridcast:all"]
    assert said == [facts, None, facts, facts]


def test_events_carry_the_metadata_of_the_version(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    parts = (
        form_part("title", "Été".encode()),
        form_part("file", b"one", "m.webm"),
        form_part("relativePath", b"null"),
    )
    assert (
        httpx.post(
            f"{upload.url}/file/upload", content=form_body(*parts), headers={"content-type": FORM_CONTENT_TYPE}
        ).status_code
        == 201
    )
    assert put_file(upload, "m.webm", b"two!").json()["metadata"] == {}
    httpx.delete(f"{upload.url}/file/stream?filename=m.webm")
    tus = TusUpload(upload)
    assert tus.create(length=0, headers={"upload-metadata": tus_metadata(filename="m.webm", a="1")}).status_code == 201
    said = [event for channel, event in event_listener.collect() if channel == "gridcast:all"]
    assert [event["type"] for event in said] == ["file.created", "file.replaced", "file.deleted", "file.created"]
    assert [event["data"]["metadata"] for event in said] == [{"title": "Été"}, {}, {}, {"a": "1"}]


def in_60_pieces(data: bytes) -> Iterator[bytes]:
    """`data` over 1.5 s: more pieces than events that a client may get in that time."""
    return throttled(data, -(-len(data) // 60), 1.5 / 60)


@pytest.mark.parametrize("way", ["put", "form", "tus"])
def test_progress(upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener, way: str) -> None:
    """At most ten a second; never backwards; stored at the end."""
    data = os.urandom(4 * CHUNK_SIZE)
    if way == "put":
        query = {"filename": "p", "sid": CLIENT_SID}
        headers = {"content-length": str(len(data))}
        url = f"{upload.url}/file/stream"
        response = httpx.put(url, params=query, content=in_60_pieces(data), headers=headers)
        assert response.status_code == 201
    elif way == "form":
        body = form_body(form_part("sid", CLIENT_SID.encode()), form_part("folder", b""), form_part("file", data, "p"))
        url = f"{upload.url}/file/upload"
        response = httpx.post(url, content=in_60_pieces(body), headers={"content-type": FORM_CONTENT_TYPE})
        assert response.status_code == 201
    else:
        tus = TusUpload(upload)
        tus.create(length=len(data), headers={"upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID)})
        length = {"content-length": str(len(data))}
        assert tus.patch(0, in_60_pieces(data), headers=length).status_code == 204
    told = [event["data"] for event in event_listener.events("file.progress")]
    assert {event["filename"] for event in told} == {"p"}
    received = [event["received"] for event in told]
    assert received == sorted(received)
    assert 5 <= len(told) <= 1.7 * 10 + 3
    assert told[-1]["state"] == "stored"
    assert told[-1]["received"] == told[-1]["total"] == len(data)
    assert all(event["state"] == "receiving" for event in told[:-1])
    if way != "form":
        assert {event["total"] for event in told} == {len(data)}
    assert 0.3 < told[-2]["rate"] / (len(data) / 1.5) < 3


def test_failure_is_published(upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener) -> None:
    wrong = {"content-digest": "sha-256=:" + "A" * 43 + "=:"}
    url = f"{upload.url}/file/stream?filename=p&sid={CLIENT_SID}"
    assert httpx.put(url, content=b"x", headers=wrong).status_code == 400
    assert event_listener.events("file.progress")[-1]["data"]["state"] == "failed"


def test_many_short_requests_share_one_progress(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    """At most ten per second, and never backwards, however the bytes are split into requests."""
    data, step = os.urandom(60_000), 1000
    tus = TusUpload(upload)
    tus.create(length=len(data), headers={"upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID)})
    began = time.monotonic()
    for start in range(0, len(data), step):
        assert tus.patch(start, data[start : start + step]).status_code == 204
    took = time.monotonic() - began
    told = [event["data"] for event in event_listener.events("file.progress")]
    received = [event["received"] for event in told]
    assert received == sorted(received)
    assert len(told) <= 10 * took + 3
    assert (told[-1]["state"], received[-1]) == ("stored", len(data))


def test_rolled_back_creation_is_reported_as_failed(
    upload: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    wrong = {
        "upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID),
        "upload-checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    }
    assert TusUpload(upload).create(length=1, content=b"x", headers=wrong).status_code == 460
    assert event_listener.events("file.progress")[-1]["data"]["state"] == "failed"


def test_rehash_progress_is_published(
    start_service: StartService,
    env: dict[str, str],
    mongod: ServerProcess,
    inspector: MongoInspector,
    event_listener: EventListener,
) -> None:
    """A process that took over an upload reports that it rehashes, where that takes long enough to be reported."""
    with run_fault_proxy(mongod.port) as wire:
        away = {"GRIDCAST_MONGODB_URI": f"mongodb://127.0.0.1:{wire.port}"}
        first, second = start_service("services.upload", **env), start_service("services.upload", **{**env, **away})
        tus = TusUpload(first, second)
        data = os.urandom(50 * CHUNK_SIZE + 5)
        tus.create(length=len(data), headers={"upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID)})
        tus.patch(0, data[:-5])
        event_listener.events("file.progress")
        event_listener.heard.clear()
        wire.latency, wire.fault = 0.1, Fault.LATENCY
        assert tus.patch(len(data) - 5, data[-5:], 1).status_code == 204
        states = [event["data"]["state"] for event in event_listener.events("file.progress")]
    assert list(dict.fromkeys(states))[-2:] == ["verifying", "stored"]


def test_unknown_socket_and_unavailable_redis_do_not_delay_uploads(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, upload: ServiceProcess
) -> None:
    away = start_service("services.upload", **{**env, "GRIDCAST_REDIS_URL": "redis://127.0.0.1:1/0"})
    for service, sid in ((upload, "B" * 52), (upload, "no sid at all"), (away, CLIENT_SID)):
        began = time.monotonic()
        answer = httpx.put(
            f"{service.url}/file/stream", params={"filename": sid[:1], "sid": sid}, content=b"x" * CHUNK_SIZE
        )
        assert answer.is_success
        assert time.monotonic() - began < 3


def test_unpublished_events_are_published_later_and_once(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, event_listener: EventListener
) -> None:
    """Redis was unavailable, or the service died before the push: the event stays, and the collector pushes it with its id."""
    away = start_service("services.upload", **{**env, "GRIDCAST_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert put_file(away, "n", b"x").status_code == 201
    (note,) = inspector.only_document()["announce"]
    assert event_listener.collect() == []
    # Half a minute later.
    inspector.age_events(31)
    run_garbage_collector(env)
    run_garbage_collector(env)
    (event,) = event_listener.events("file.created")
    assert event["id"] == str(note["id"])
    assert event["data"]["filename"] == "n"
    assert inspector.only_document()["announce"] == []


@pytest.fixture
def away(start_service: StartService, env: dict[str, str]) -> ServiceProcess:
    """A replica that does not reach Redis."""
    return start_service("services.upload", **{**env, "GRIDCAST_REDIS_URL": "redis://127.0.0.1:1/0"})


@pytest.mark.parametrize("last", ["delete", "put", "tus"])
def test_an_unpublished_event_is_published_before_the_next_one_of_its_name(
    upload: ServiceProcess, away: ServiceProcess, inspector: MongoInspector, event_listener: EventListener, last: str
) -> None:
    """Events of one name are published in commit order, by any replica and by the garbage collector."""
    put_file(away, "n", b"x")
    put_file(away, "other", b"not of this name")
    if last != "put":
        put_file(away, "n", b"yy")
    if last == "tus":
        httpx.delete(f"{away.url}/file/stream?filename=n")
        assert TusUpload(upload).create("n", length=3, content=b"zzz").status_code == 201
        types = ["file.created", "file.replaced", "file.deleted", "file.created"]
    elif last == "put":
        put_file(upload, "n", b"zzz")
        types = ["file.created", "file.replaced"]
    else:
        httpx.delete(f"{upload.url}/file/stream?filename=n")
        types = ["file.created", "file.replaced", "file.deleted"]
    said = [event for channel, event in event_listener.collect() if channel == "gridcast:all"]
    assert [event["type"] for event in said] == types
    assert [event["data"]["revision"] for event in said] == list(range(1, len(types) + 1))

    def is_told() -> bool:
        document = inspector.find_document("n")
        return document is not None and all(entry.get("told") for entry in document["announce"])

    eventually(is_told)


@pytest.mark.parametrize("writers", [2, 8])
def test_concurrent_changes_are_published_in_the_order_of_their_commits(
    start_service: StartService,
    env: dict[str, str],
    upload: ServiceProcess,
    inspector: MongoInspector,
    event_listener: EventListener,
    writers: int,
) -> None:
    """On two replicas. The last event of each round describes the file that is there."""
    replicas = (upload, start_service("services.upload", **{**env, "GRIDCAST_MONGODB_DRIVER": "pymongo"}))
    for number in range(8):
        name = f"race {number}"
        with ThreadPoolExecutor(writers) as pool:
            calls = [pool.submit(put_file, replicas[at % 2], name, b"v%d" % at) for at in range(writers)]
            answers = [call.result() for call in calls]
        revisions = [answer.json()["revision"] for answer in answers]
        assert sorted(revisions) == list(range(1, writers + 1))
        said = [event["data"] for _, event in event_listener.collect() if isinstance(event, dict)]
        told = [data for data in said if data["filename"] == name]
        assert [data["revision"] for data in told] == list(range(1, writers + 1))
        document = inspector.find_document(name)
        assert document is not None
        assert (told[-1]["sha256"], told[-1]["revision"]) == (document["current"]["sha256"], document["revision"])


def test_more_changes_than_the_outbox_holds_are_reported(
    upload: ServiceProcess, away: ServiceProcess, inspector: MongoInspector, event_listener: EventListener
) -> None:
    """The outbox overflows: subscribers get `socket.resync` for the oldest events, then the newest ones in order."""
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda number: put_file(away, "n", b"%d" % number), range(80)):
            assert answer.is_success
    last = put_file(upload, "n", b"last").json()
    said = [event for channel, event in event_listener.collect() if channel == "gridcast:all"]
    assert (said[0]["type"], said[0]["data"]) == ("socket.resync", {"reason": "events were lost"})
    revisions = [event["data"]["revision"] for event in said[1:]]
    assert revisions == list(range(81 - len(revisions) + 1, 82))
    assert len(revisions) == 63
    assert said[-1]["data"] == {**last, "previous_owner": None}


def test_garbage_collector_as_a_command(upload: ServiceProcess, env: dict[str, str], inspector: MongoInspector) -> None:
    """It collects what is due and nothing else; a second run changes nothing."""
    put_file(upload, "kept", b"x")
    put_file(upload, "gone", b"y")
    httpx.delete(f"{upload.url}/file/stream?filename=gone")
    tus = TusUpload(upload)
    tus.create("under way", length=10)
    inspector.make_tombstones_due("gone")
    eventually(lambda: all(document["announce"] == [] for document in inspector.list_documents()))
    for _ in range(2):
        run_garbage_collector(env)
        assert sorted(document["filename"] for document in inspector.list_documents()) == ["kept", "under way"]
        assert inspector.count_chunks() == 1
    assert tus.offset() == 0
