"""For tests of the live service: services on one database, and a client that makes streams and sends to them.

Fixtures: `live`, a service for all tests of a module; `live_env`, its variables. A module that needs other settings defines its own
`live_settings`.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import LivePosition
from services.live.session import Session
from tests.support.databases import ServerProcess, storage_env
from tests.support.migrated_databases import prepare_store
from tests.support.processes import ServiceProcess, run_service

TUS = {"tus-resumable": "1.0.0"}
OFFSET_TYPE = {"content-type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    """Variables of `live` besides the addresses of its databases; redefined by modules that need some."""
    return {}


@pytest.fixture(scope="module")
def live_env(
    request: pytest.FixtureRequest, mongod: ServerProcess, redis_server: ServerProcess, live_settings: dict[str, str]
) -> dict[str, str]:
    database = request.module.__name__.rpartition(".")[2]
    defaults = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0"}
    return storage_env(mongod, redis_server.url, database, **(defaults | live_settings))


@pytest.fixture(scope="module")
def live(live_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("services.live", tmp_path_factory.mktemp("live"), live_env) as service:
        yield service


@dataclass
class LiveClient:
    """A stream, and requests of its publisher to one service or another."""

    url: str
    made: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.made["id"])

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.made['publish_token']}"}

    def get(self) -> dict[str, Any]:
        """Describe the stream."""
        answer: dict[str, Any] = httpx.get(f"{self.url}/live/{self.id}", timeout=30).raise_for_status().json()
        return answer

    def patch(
        self, offset: int, data: Any, length: int | None = None, query: str = "", **headers: str
    ) -> httpx.Response:
        """Append bytes by tus."""
        fields = {**TUS, **OFFSET_TYPE, **self.auth, "upload-offset": str(offset), **headers}
        if length is not None:
            fields["upload-length"] = str(length)
        return httpx.patch(f"{self.url}{self.made['tus']}{query}", content=data, headers=fields, timeout=30)

    def head(self, query: str = "") -> httpx.Response:
        """Ask for the durable offset."""
        return httpx.head(f"{self.url}{self.made['tus']}{query}", headers={**TUS, **self.auth}, timeout=30)

    def begin(self) -> httpx.Response:
        """Begin another source by tus."""
        fields = {**TUS, **self.auth, "upload-defer-length": "1"}
        return httpx.post(f"{self.url}{self.made['tus']}", headers=fields, timeout=30)

    def post(self, data: Any, query: str = "", **headers: str) -> httpx.Response:
        """Send one body."""
        return httpx.post(
            f"{self.url}{self.made['media']}{query}", content=data, headers={**self.auth, **headers}, timeout=30
        )

    def put(self, name: str, data: Any) -> httpx.Response:
        """Send one object, with the token in the path."""
        return httpx.put(f"{self.url}{self.made['objects']}{name}", content=data, timeout=30)

    def end(self) -> dict[str, Any]:
        """End the stream."""
        answer: dict[str, Any] = httpx.post(f"{self.url}/live/{self.id}/end", timeout=60).raise_for_status().json()
        return answer


_names = iter(range(10**9))


def make_stream(service: ServiceProcess | str, **wanted: Any) -> LiveClient:
    """Make a stream, by default under a new name."""
    url = service if isinstance(service, str) else service.url
    content = {"filename": f"live {next(_names)}.mp4", **wanted}
    return LiveClient(url, httpx.post(f"{url}/live", json=content, timeout=30).raise_for_status().json())


def probe(path: Path) -> Any:
    """What ffprobe reads, every frame decoded."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-count_frames", "-select_streams", "v"]
    command += ["-show_entries", "format=duration:stream=nb_read_frames", str(path)]
    return json.loads(subprocess.check_output(command, timeout=60))


@pytest.fixture(scope="module")
def library(live_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A stream service on the same store: it reads the files that streams become."""
    prepare_store(live_env)
    with run_service("services.stream", tmp_path_factory.mktemp("library"), live_env) as service:
        yield service


def read_list(library: ServiceProcess, client: LiveClient) -> httpx.Response:
    """Ask the stream service for the media playlist of a stream."""
    return httpx.get(f"{library.url}/live/{client.id}/media.m3u8", timeout=30)


def read_file(library: ServiceProcess, client: LiveClient, filename: str | None = None) -> bytes:
    """The file of a stream that has ended."""
    query = {"folder": client.get()["folder"], "filename": filename or client.get()["filename"]}
    return httpx.get(f"{library.url}/file/stream", params=query, timeout=30).raise_for_status().content


def media_of(sent: bytes, target: int = 2) -> bytes:
    """What one process makes of a sender's bytes: the file behind its reserved header."""
    session = Session(target, LivePosition(BLOCK_SIZE), None, b"")
    step = session.feed(sent, 0.0)
    assert step.error is None
    return step.data + session.end().data
