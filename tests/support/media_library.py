"""An upload and a stream service on one database, for tests that read what they have uploaded: `run_media_services`."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pymongo
import pytest

from tests.support.databases import ServerProcess, drop_database, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector, open_inspector

BOUNDARY_SIZES = (
    0,
    1,
    2,
    1000,
    CHUNK_SIZE - 1,
    CHUNK_SIZE,
    CHUNK_SIZE + 1,
    2 * CHUNK_SIZE - 1,
    2 * CHUNK_SIZE,
    2 * CHUNK_SIZE + 1,
    8 * CHUNK_SIZE,
    9 * CHUNK_SIZE + 7,
)
"""File lengths in bytes on both sides of every chunk and batch boundary."""


class MediaServices:
    """The two services, a client for the stream service, and `inspector`, their store."""

    def __init__(self, upload: ServiceProcess, stream: ServiceProcess, inspector: MongoInspector) -> None:
        self.upload = upload
        self.stream = stream
        self.inspector = inspector
        self.http_client = httpx.Client(timeout=30)

    def put(self, filename: str, data: bytes | Path, folder: str = "", content_type: str = "video/webm") -> str:
        """Upload a new file and return its id."""
        with contextlib.ExitStack() as open_files:
            content = open_files.enter_context(data.open("rb")) if isinstance(data, Path) else data
            answer = httpx.post(
                f"{self.upload.url}/file/upload",
                files={"file": (filename, content, content_type)},
                data={"folder": folder},
                timeout=100,
            )
        assert answer.status_code == 201, answer.text
        return str(answer.json())

    def url(self, filename: str, folder: str = "", service: ServiceProcess | None = None) -> str:
        """The URL of the file at the stream service, or at another one."""
        query = urlencode({"filename": filename, "folder": folder})
        return f"{(service or self.stream).url}/file/stream?{query}"

    def get(self, filename: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> httpx.Response:
        """Request the file with exactly these headers."""
        return self.http_client.request(method, self.url(filename), headers={**(headers or {})})

    @property
    def db(self) -> pymongo.database.Database[dict[str, Any]]:
        """The database of MongoDB; skips the test with another store."""
        return self.inspector.db

    def current_file_id(self, identifier: str) -> Any:
        """The file id of the current version."""
        (document,) = (one for one in self.inspector.list_documents() if str(one["_id"]) == identifier)
        return document["current"]["file"]

    def delete_chunk(self, identifier: str, number: int) -> None:
        """Delete one block of the current version behind the store, as `StoreInspector.lose_block`."""
        self.inspector.lose_block(self.current_file_id(identifier), number)


@pytest.fixture(scope="module")
def media_services(
    request: pytest.FixtureRequest,
    mongod: ServerProcess,
    redis_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MediaServices]:
    """The services with default settings; the database has the name of the test module."""
    name = request.module.__name__.rpartition(".")[2]
    with run_media_services(tmp_path_factory.mktemp(name), mongod, redis_server.url, name) as services:
        yield services


@contextlib.contextmanager
def run_media_services(
    folder: Path, mongod: ServerProcess, redis_url: str, database: str, **env: str
) -> Iterator[MediaServices]:
    """Run both services and drop the database at the end. `env` goes to the stream service only."""
    common = storage_env(mongod, redis_url, database)
    with (
        open_inspector(mongod.url, database) as inspector,
        run_service("services.upload", folder, common) as upload,
        run_service("services.stream", folder, {**common, **env}) as stream,
    ):
        library = MediaServices(upload, stream, inspector)
        with library.http_client:
            yield library
        drop_database(mongod, database)
