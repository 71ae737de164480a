"""For tests of the upload service: its database read directly, requests as bytes, and a tus client that sends single requests.

Fixtures: `upload`, a service for all tests of a module; `env`, its variables; `inspector`, its database, emptied before each
test. A module that needs other settings defines its own `upload_settings`.
"""

import base64
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_module, run_service, start_module
from tests.support.store_inspectors import MongoInspector, open_env_inspector

BOUNDARY = b"0123456789abcdef"
FORM_CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"
TUS_HEADERS = {"tus-resumable": "1.0.0"}
OFFSET_CONTENT_TYPE = {"content-type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    """Variables of `upload` besides the addresses of its databases; redefined by modules that need some."""
    return {}


@pytest.fixture(scope="module")
def env(
    request: pytest.FixtureRequest, mongod: ServerProcess, redis_server: ServerProcess, upload_settings: dict[str, str]
) -> dict[str, str]:
    database = request.module.__name__.rpartition(".")[2]
    return storage_env(mongod, redis_server.url, database, **upload_settings)


@pytest.fixture(scope="module")
def upload(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("services.upload", tmp_path_factory.mktemp("upload"), env) as service:
        yield service


@pytest.fixture
def inspector(env: dict[str, str]) -> Iterator[MongoInspector]:
    """The store of `env`, emptied: a FilesInspector with TEST_STORE=files, which has the same calls."""
    with open_env_inspector(env) as store:
        store.clear()
        yield store


def form_part(name: str, content: bytes, filename: str | None = None, kind: str | None = None) -> bytes:
    """One part of a multipart/form-data body; `kind` is its Content-Type."""
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    if kind:
        head += f"\r\nContent-Type: {kind}"
    return b"--" + BOUNDARY + b"\r\n" + head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content + b"\r\n"


def form_body(*parts: bytes) -> bytes:
    """A multipart/form-data body of these parts, to be sent with FORM_CONTENT_TYPE."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def post_form(
    service: ServiceProcess, body: bytes, query: str = "", content_type: str = FORM_CONTENT_TYPE
) -> httpx.Response:
    return httpx.post(
        f"{service.url}/file/upload{query}", content=body, headers={"content-type": content_type}, timeout=30
    )


def put_file(service: ServiceProcess, name: str, body: Any, /, folder: str = "", **headers: str) -> httpx.Response:
    fields = {key.replace("_", "-"): value for key, value in headers.items()}
    query = {"filename": name, "folder": folder}
    return httpx.put(f"{service.url}/file/stream", params=query, content=body, headers=fields, timeout=60)


def start_partial_put(service: ServiceProcess, name: str, size: int, sent: bytes) -> socket.socket:
    """Begin a PUT of `size` bytes, of which only `sent` is sent; the caller sends the rest or closes the connection."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=40)
    head = f"PUT /file/stream?filename={name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + sent)
    return connection


def throttled(data: bytes, piece_size: int, pause_seconds: float) -> Iterator[bytes]:
    """Yield `data` in pieces with a pause after each, so that a request body lasts as long as a test needs."""
    for start in range(0, len(data), piece_size):
        yield data[start : start + piece_size]
        time.sleep(pause_seconds)


def garbage_collector(env: Mapping[str, str]) -> dict[str, Any]:
    """The options of `run_module` and `start_module` for a run that sees only these GRIDCAST_* variables."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")}
    store = f"services.common.store.{env.get('GRIDCAST_STORE', 'gridfs')}"
    return {"module": "services.upload.collect_garbage", "env": {**inherited, **env}, "packages": [store]}


def start_garbage_collector(env: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    """Start one run of `python -m services.upload.collect_garbage`, whose log is appended to a file."""
    return start_module(output=output, **garbage_collector(env))


def run_garbage_collector(env: Mapping[str, str]) -> None:
    """Run the garbage collector once, and fail with its log where it exits with an error."""
    done = run_module(**garbage_collector(env))
    assert done.returncode == 0, done.stderr


def repr_digest(data: bytes) -> str:
    """The value of Repr-Digest (RFC 9530) for `data`."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def etag(data: bytes) -> str:
    """The entity tag of a file with these bytes."""
    return f'"sha256-{hashlib.sha256(data).hexdigest()}"'


def tus_metadata(**values: str) -> str:
    """The value of Upload-Metadata."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


class TusUpload:
    """One tus upload, one request per method. `replica` is an index into the services it was made with."""

    def __init__(self, *services: ServiceProcess) -> None:
        self.urls = [service.url for service in services]
        self.client = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
        self.path = ""

    def create(
        self,
        name: str | None = "a.bin",
        length: int | None = 0,
        content: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        fields = {**TUS_HEADERS, **(headers or {})}
        if length is not None:
            fields["upload-length"] = str(length)
        if name is not None:
            fields.setdefault("upload-metadata", tus_metadata(filename=name))
        if content is not None:
            fields |= OFFSET_CONTENT_TYPE
        answer = self.client.post(f"{self.urls[0]}/file/tus", headers=fields, content=content)
        self.path = answer.headers.get("location", "")
        return answer

    def head(self, replica: int = 0) -> httpx.Response:
        return self.client.head(self.urls[replica] + self.path, headers=TUS_HEADERS)

    def offset(self, replica: int = 0) -> int:
        answer = self.head(replica)
        assert answer.status_code == 200, answer.status_code
        return int(answer.headers["upload-offset"])

    def patch(
        self, offset: int, content: Any, replica: int = 0, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        fields = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": str(offset), **(headers or {})}
        return self.client.patch(self.urls[replica] + self.path, headers=fields, content=content)

    def delete(self, replica: int = 0) -> httpx.Response:
        return self.client.delete(self.urls[replica] + self.path, headers=TUS_HEADERS)

    def open_patch(self, service: ServiceProcess, offset: int, length: int) -> socket.socket:
        """Send the head of a PATCH on a connection of its own; the caller sends the body."""
        connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        head = (
            f"PATCH {self.path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n"
            f"Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode())
        return connection


def expect_problem(answer: httpx.Response, status: int) -> str:
    """Assert that the response is a problem document with that status, and return its detail."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    detail: str = answer.json()["detail"]
    return detail


def unread_socket_bytes(port: int, connection: socket.socket) -> int:
    """The number of bytes sent on this connection to a loopback port that the other end has not read yet."""
    own = connection.getsockname()[1]
    waiting = 0
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        sending, receiving = (int(queue, 16) for queue in fields[4].split(":"))
        waiting += {(port, own): receiving, (own, port): sending}.get((local, remote), 0)
    return waiting
