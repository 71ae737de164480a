"""A stream service with an upload service beside it, on one database: what the tests of reading put their files into."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pymongo
from bson import ObjectId

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import CHUNK_SIZE

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
"""Lengths on either side of every edge of chunk and batch."""


class MediaServices:
    """Files written by the one service, read by the other; `db` is for looking behind both."""

    def __init__(
        self, upload: ServiceProcess, stream: ServiceProcess, db: pymongo.database.Database[dict[str, Any]]
    ) -> None:
        self.upload = upload
        self.stream = stream
        self.db = db
        self.http_client = httpx.Client(timeout=30)

    def put(self, filename: str, data: bytes | Path, folder: str = "", content_type: str = "video/webm") -> str:
        """Upload a new file; its id."""
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
        """Where the file is read."""
        query = urlencode({"filename": filename, "folder": folder})
        return f"{(service or self.stream).url}/file/stream?{query}"

    def get(self, filename: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> httpx.Response:
        """Ask for the file, exactly with these header fields."""
        return self.http_client.request(method, self.url(filename), headers={**(headers or {})})

    def current_file_id(self, identifier: str) -> ObjectId:
        """The stored bytes of a file."""
        document = self.db["media"].find_one({"_id": ObjectId(identifier)})
        assert document is not None
        return ObjectId(document["current"]["file"])

    def delete_chunk(self, identifier: str, number: int) -> None:
        """Delete one chunk by hand."""
        assert (
            self.db["fs.chunks"].delete_one({"files_id": self.current_file_id(identifier), "n": number}).deleted_count
            == 1
        )


@contextlib.contextmanager
def run_media_services(
    folder: Path, mongod: ServerProcess, redis_url: str, database: str, **env: str
) -> Iterator[MediaServices]:
    """Both services; `env` is the stream service's own. The database is dropped afterwards."""
    common = storage_env(mongod, redis_url, database)
    with (
        pymongo.MongoClient[dict[str, Any]](mongod.url) as client,
        run_service("services.upload", folder, common) as upload,
        run_service("services.stream", folder, {**common, **env}) as stream,
    ):
        library = MediaServices(upload, stream, client[database])
        with library.http_client:
            yield library
        client.drop_database(database)
