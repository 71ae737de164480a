"""Quotas of owners at the upload service, over both stores: before the body where its length is known, and after a kill."""

import base64
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.waiting import eventually

QUOTA = 4 * MIB
TUS = {"tus-resumable": "1.0.0"}
OFFSET = {"content-type": "application/offset+octet-stream"}
SETTINGS = {
    "GRIDCAST_MAX_BYTES_PER_OWNER": str(QUOTA),
    "GRIDCAST_MAX_UNFINISHED_UPLOADS_PER_OWNER": "3",
    "GRIDCAST_LEASE_TTL": "1",
    "GRIDCAST_GC_INTERVAL": "0.2",
    "GRIDCAST_SECOND_PURGE_DELAY": "0",
    "GRIDCAST_TOMBSTONE_TTL": "0",
}
Start = Callable[..., AbstractContextManager[ServiceProcess]]


@pytest.fixture(scope="module", params=["gridfs", "files"])
def start(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    mongod: ServerProcess,
    redis_server: ServerProcess,
) -> Start:
    """Starts an upload service on one store."""
    logs: Path = tmp_path_factory.mktemp("quotas")
    env = storage_env(mongod, redis_server.url, "auth_quotas", **AUTH_ENV, **SETTINGS)
    if request.param == "files":
        env |= {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(logs / "store")}
    return lambda **more: run_service("services.upload", logs, env | more)


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def metrics_url(metrics_port: int) -> str:
    return f"http://127.0.0.1:{metrics_port}/metrics"


@pytest.fixture(scope="module")
def upload(start: Start, metrics_port: int) -> Iterator[httpx.Client]:
    with (
        start(GRIDCAST_METRICS_PORT=str(metrics_port)) as service,
        httpx.Client(base_url=service.url, timeout=20) as client,
    ):
        yield client


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def by(subject: str) -> dict[str, str]:
    return authorized("write delete", subject)


def create(client: httpx.Client, subject: str, name: str, **fields: str) -> httpx.Response:
    named = metadata(filename=name, folder=subject)
    return client.post("/file/tus", headers={**TUS, "upload-metadata": named, **by(subject), **fields})


def put(client: httpx.Client, subject: str, name: str, body: Any) -> httpx.Response:
    return client.put(f"/files/{subject}/{name}", content=body, headers=by(subject))


def pieces(length: int) -> Iterator[bytes]:
    for _ in range(0, length, 65536):
        yield bytes(65536)


def is_over_quota(answer: httpx.Response) -> bool:
    return answer.status_code == 507 and "your quota of" in answer.json()["detail"]


def test_a_known_length_is_refused_before_the_body(upload: httpx.Client) -> None:
    url = upload.base_url
    token = by("early")["authorization"]
    for expectation in ("expect: 100-continue\r\n", ""):
        with socket.create_connection((url.host, url.port or 0), 10) as connection:
            head = f"PUT /files/early/a HTTP/1.1\r\nhost: localhost\r\nauthorization: {token}\r\ncontent-length: {QUOTA + 1}\r\n"
            connection.sendall(f"{head}{expectation}\r\n".encode())
            received = b""
            while data := connection.recv(65536):
                received += data
        assert received.startswith(b"HTTP/1.1 507 Insufficient Storage")
        assert b"100 Continue" not in received
    assert is_over_quota(create(upload, "early", "b", **{"upload-length": str(QUOTA + 1)}))
    assert put(upload, "early", "c", bytes(QUOTA)).status_code == 201
    assert is_over_quota(put(upload, "early", "d", b"x"))
    assert put(upload, "another", "d", b"x").status_code == 201
    assert upload.delete("/files/early/c", headers=by("early")).status_code == 204
    assert put(upload, "early", "d", bytes(QUOTA)).status_code == 201


def test_an_unknown_length_is_cut_where_the_quota_ends(upload: httpx.Client) -> None:
    assert put(upload, "chunked", "kept", bytes(MIB)).status_code == 201
    assert is_over_quota(put(upload, "chunked", "a", pieces(QUOTA)))
    form = {"files": {"file": ("form.bin", bytes(QUOTA))}, "headers": by("chunked")}
    assert is_over_quota(upload.post("/file/upload?folder=chunked", **form))  # type: ignore[arg-type]
    assert is_over_quota(upload.post("/file/upload", data={"folder": "chunked"}, **form))  # type: ignore[arg-type]
    # Nothing of them is left in the way.
    assert put(upload, "chunked", "b", pieces(2 * MIB)).status_code == 201
    assert put(upload, "chunked", "c", bytes(MIB)).status_code == 201
    assert is_over_quota(put(upload, "chunked", "d", pieces(65536)))


def test_a_deferred_length(upload: httpx.Client) -> None:
    location = create(upload, "deferred", "a", **{"upload-defer-length": "1"}).headers["location"]

    def patch(offset: int, body: Any, **fields: str) -> httpx.Response:
        headers = {**TUS, **OFFSET, **by("deferred"), "upload-offset": str(offset), **fields}
        return upload.patch(location, content=body, headers=headers)

    assert patch(0, bytes(MIB)).status_code == 204
    assert is_over_quota(patch(MIB, b"", **{"upload-length": str(QUOTA + 1)}))
    assert is_over_quota(patch(MIB, pieces(QUOTA)))
    # What was received before the refusal is kept or not; the client asks, and can go on at once.
    head = upload.head(location, headers={**TUS, **by("deferred")})
    offset = int(head.headers["upload-offset"])
    assert MIB <= offset <= QUOTA
    last = patch(offset, bytes(QUOTA - offset), **{"upload-length": str(QUOTA)})
    assert last.status_code == 204
    assert is_over_quota(put(upload, "deferred", "b", b"x"))


def test_a_poster_counts(upload: httpx.Client) -> None:
    """For the owner of the file, also where another subject sets it."""
    gif = b"GIF89a" + bytes(MIB - 6)

    def set_poster(subject: str, body: bytes) -> httpx.Response:
        query = {"folder": "poster", "filename": "a"}
        return upload.put("/file/poster", params=query, content=body, headers=by(subject))

    assert put(upload, "poster", "a", bytes(QUOTA - MIB)).status_code == 201
    assert set_poster("another", gif).status_code == 200
    assert is_over_quota(put(upload, "poster", "b", b"x"))
    assert put(upload, "another", "poster", bytes(QUOTA - MIB)).status_code == 201
    assert upload.delete("/file/poster", params={"folder": "poster", "filename": "a"}, headers=by("poster")).is_success
    assert put(upload, "poster", "b", b"x").status_code == 201
    assert is_over_quota(set_poster("poster", gif))
    assert set_poster("poster", gif[:-1]).status_code == 200


def test_unfinished_uploads_and_parts(upload: httpx.Client) -> None:
    half = QUOTA // 2
    parts = []
    for _ in range(2):
        fields = {"upload-concat": "partial", "upload-length": str(half), **TUS, **OFFSET, **by("parts")}
        made = upload.post("/file/tus", headers=fields, content=bytes(half))
        assert made.status_code == 201
        parts.append(made.headers["location"])
    assert is_over_quota(create(upload, "parts", "b", **{"upload-length": "1"}))
    third = create(upload, "parts", "c", **{"upload-length": "0", "upload-concat": "partial"})
    assert third.status_code == 201
    refused = create(upload, "parts", "d", **{"upload-length": "0"})
    assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    assert upload.delete(third.headers["location"], headers={**TUS, **by("parts")}).status_code == 204
    # The parts have reserved what the whole needs.
    joined = create(upload, "parts", "joined", **{"upload-concat": f"final;{' '.join(parts)}"})
    assert joined.status_code == 201
    assert is_over_quota(put(upload, "parts", "e", b"x"))
    assert upload.delete("/files/parts/joined", headers=by("parts")).status_code == 204
    assert put(upload, "parts", "e", bytes(QUOTA)).status_code == 201


def test_a_killed_service_leaves_nothing_reserved(start: Start) -> None:
    with start() as killed, httpx.Client(base_url=killed.url) as client:
        assert create(client, "killed", "kept", **{"upload-length": str(MIB)}).status_code == 201
        address = client.base_url
        head = f"PUT /files/killed/a HTTP/1.1\r\nhost: localhost\r\nauthorization: {by('killed')['authorization']}\r\n"
        with socket.create_connection((address.host, address.port or 0), 10) as connection:
            connection.sendall(f"{head}content-length: {3 * MIB}\r\nexpect: 100-continue\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            assert is_over_quota(put(client, "killed", "b", b"x"))
            os.kill(killed.pid, signal.SIGKILL)
    with start() as service, httpx.Client(base_url=service.url) as client:
        eventually(lambda: put(client, "killed", "b", bytes(3 * MIB)).status_code == 201, 30)
        assert is_over_quota(put(client, "killed", "c", b"x"))


def test_refusals_are_counted(upload: httpx.Client, metrics_url: str) -> None:
    def refusals(limit: str) -> float:
        sample = f'gridcast_quota_refusals_total{{limit="{limit}"}} '
        lines = httpx.get(metrics_url).text.splitlines()
        return sum(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))

    before = refusals("bytes")
    assert is_over_quota(create(upload, "counted", "a", **{"upload-length": str(QUOTA + 1)}))
    assert refusals("bytes") == before + 1
