"""Media as commit 58a3874 has stored them, the last one before the first renaming: what a later commit must still serve and delete.

`data/legacy_58a3874.json` holds its MongoDB documents as extended JSON. It was written by running that commit:

    git archive 58a3874 | tar -x -C CHECKOUT
    python -m tests.support.legacy_data CHECKOUT > tests/support/data/legacy_58a3874.json

Content is a repeated pattern, so that long binary values are stored as the place in it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pymongo
from bson import Binary, json_util
from bson.json_util import JSONOptions

from deploy.local.ports import free_ports
from tests.support.databases import run_server, small_mongod_program
from tests.support.sizes import CHUNK_SIZE
from tests.support.upload_client import TusUpload, tus_metadata
from tests.support.waiting import eventually

LEGACY_COMMIT = "58a3874"
DATA_PATH = Path(__file__).with_name("data") / "legacy_58a3874.json"
COLLECTIONS = ("media", "fs.files", "fs.chunks")
CURRENT_LENGTH = CHUNK_SIZE + 40_000
UNFINISHED_LENGTH = 2 * CHUNK_SIZE + 100_000
UNFINISHED_OFFSET = CHUNK_SIZE + 30_000
_PATTERN = bytes(range(251))
_MIN_ABBREVIATED_BYTES = 1000


def make_content(length: int, start: int = 0) -> bytes:
    """Bytes `start` to `start + length` of the pattern that every file begins with."""
    start %= len(_PATTERN)
    return (_PATTERN * ((start + length) // len(_PATTERN) + 1))[start : start + length]


def write_legacy_media(url: str) -> dict[str, str]:
    """Stores one of everything through an upload service or a gateway. Returns the paths of the tus uploads by their names."""

    def put(name: str, length: int) -> None:
        query = {"filename": name, "folder": "old"}
        httpx.put(f"{url}/file/stream", params=query, content=make_content(length), timeout=30).raise_for_status()

    put("current.webm", CURRENT_LENGTH)
    put("replaced.txt", 10)
    put("replaced.txt", 20)
    put("deleted.txt", 30)
    query = {"filename": "deleted.txt", "folder": "old"}
    httpx.delete(f"{url}/file/stream", params=query, timeout=30).raise_for_status()
    paths: dict[str, str] = {}

    def tus(key: str, filename: str, length: int, content: bytes, **headers: str) -> None:
        upload = _tus_upload(url)
        metadata = tus_metadata(filename=filename, folder="old", filetype="video/webm")
        response = upload.create(None, length, content, headers={"upload-metadata": metadata, **headers})
        assert response.status_code == 201, response.text
        paths[key] = upload.path

    tus("unfinished", "unfinished.webm", UNFINISHED_LENGTH, make_content(UNFINISHED_OFFSET))
    tus("lost", "finished.webm", 7, make_content(3))
    tus("finished", "finished.webm", 5, make_content(5))
    lost = _tus_upload(url)
    lost.path = paths["lost"]
    assert lost.patch(3, make_content(4, 3)).status_code == 410
    tus("part", "", 6, make_content(6), **{"upload-concat": "partial"})
    return paths


def verify_legacy_media(upload_url: str, stream_url: str, paths: Mapping[str, str]) -> None:
    """Reads, resumes, joins and deletes what `write_legacy_media` has stored. Nothing but garbage is left."""

    def get(name: str, **headers: str) -> httpx.Response:
        query = {"filename": name, "folder": "old"}
        return httpx.get(f"{stream_url}/file/stream", params=query, headers=headers, timeout=30)

    whole = get("current.webm")
    assert (whole.status_code, whole.content) == (200, make_content(CURRENT_LENGTH))
    part = get("current.webm", range=f"bytes={CHUNK_SIZE - 5}-{CHUNK_SIZE + 4}")
    assert (part.status_code, part.content) == (206, make_content(10, CHUNK_SIZE - 5))
    assert get("current.webm", **{"if-none-match": whole.headers["etag"]}).status_code == 304
    assert get("replaced.txt").content == make_content(20)
    assert get("deleted.txt").status_code == 404
    assert get("finished.webm").content == make_content(5)

    uploads = {key: _tus_upload(upload_url) for key in paths}
    for key, path in paths.items():
        uploads[key].path = path
    finished = uploads["finished"].head()
    assert (finished.headers["upload-offset"], finished.headers["etag"]) == ("5", get("finished.webm").headers["etag"])
    assert uploads["lost"].head().status_code == 410
    unfinished = uploads["unfinished"]
    assert unfinished.offset() == UNFINISHED_OFFSET
    rest = make_content(UNFINISHED_LENGTH - UNFINISHED_OFFSET, UNFINISHED_OFFSET)
    resumed = unfinished.patch(UNFINISHED_OFFSET, rest)
    assert resumed.status_code == 204, resumed.text
    assert get("unfinished.webm").content == make_content(UNFINISHED_LENGTH)
    assert uploads["part"].offset() == 6
    joined = _tus_upload(upload_url).create(
        None,
        None,
        None,
        headers={
            "upload-concat": f"final;{paths['part']}",
            "upload-metadata": tus_metadata(filename="joined.webm", folder="old"),
        },
    )
    assert joined.status_code == 201, joined.text
    assert get("joined.webm").content == make_content(6)

    listed = httpx.get(f"{stream_url}/file", params={"folder": "old"}, timeout=30).json()["files"]
    names = {"current.webm", "replaced.txt", "finished.webm", "unfinished.webm", "joined.webm"}
    assert {file["filename"] for file in listed} == names
    for file in listed:
        query = {"filename": file["filename"], "folder": "old"}
        wrong, right = (
            httpx.delete(f"{upload_url}/file/stream", params=query, headers={"if-match": etag}, timeout=30)
            for etag in ('"other"', file["etag"])
        )
        assert (wrong.status_code, right.status_code) == (412, 204)
        assert get(file["filename"]).status_code == 404


def load_legacy_data(database: Any) -> dict[str, str]:
    """Inserts the documents as if they had just been written. Returns the paths of the tus uploads by their names."""
    stored = json_util.loads(DATA_PATH.read_text("utf-8"), json_options=JSONOptions(tz_aware=True))
    age = datetime.now(UTC) - stored["written_at"]
    for collection, rows in stored["documents"].items():
        database[collection].insert_many([_map_values(row, lambda value: _restore(value, age)) for row in rows])
    paths: dict[str, str] = stored["paths"]
    return paths


def age_documents(database: Any, age: timedelta) -> None:
    """Moves every time in the documents into the past, as if nothing had happened for so long."""
    for document in list(database["media"].find()):
        aged = _map_values(document, lambda value: value - age if isinstance(value, datetime) else value)
        database["media"].replace_one({"_id": document["_id"]}, aged)


def _tus_upload(url: str) -> TusUpload:
    upload = TusUpload()
    upload.urls = [url]
    return upload


def _map_values(value: Any, change: Callable[[Any], Any]) -> Any:
    changed = change(value)
    if changed is not value:
        return changed
    if isinstance(value, dict):
        return {key: _map_values(item, change) for key, item in value.items()}
    return [_map_values(item, change) for item in value] if isinstance(value, list) else value


def _abbreviate(value: Any) -> Any:
    if isinstance(value, bytes) and len(value) >= _MIN_ABBREVIATED_BYTES:
        start = _PATTERN.index(value[0])
        assert value == make_content(len(value), start)
        return {"pattern_start": start, "pattern_length": len(value)}
    return value


def _restore(value: Any, age: timedelta) -> Any:
    if isinstance(value, datetime):
        return value + age
    if isinstance(value, dict) and value.keys() == {"pattern_start", "pattern_length"}:
        return Binary(make_content(value["pattern_length"], value["pattern_start"]))
    return value


def main(checkout: Path) -> None:
    """Prints what the commit in `checkout` stores. Redis is away, so every event stays in the outbox."""
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder) / "mongod", small_mongod_program) as mongod:
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        env = {
            "GRIDCAST_PORT": str(port),
            "GRIDCAST_MONGODB_URI": mongod.url,
            "GRIDCAST_REDIS_URL": "redis://127.0.0.1:1/0",
            "GRIDCAST_JANITOR_EVERY": "0",
            "GRIDCAST_GRACE": "1",
            "GRIDCAST_MIN_FREE": "0",
        }
        service = subprocess.Popen(
            [sys.executable, "-m", "services.upload"], cwd=checkout, env={**os.environ, **env}, stdout=sys.stderr
        )
        try:
            eventually(lambda: _is_ready(url), 30, "the service is ready")
            paths = write_legacy_media(url)
            time.sleep(1)  # what is acknowledged later
        finally:
            service.terminate()
            service.wait(30)
        with pymongo.MongoClient[dict[str, Any]](mongod.url, tz_aware=True) as client:
            documents = {name: list(client["gridcast"][name].find().sort("_id")) for name in COLLECTIONS}
        data = {
            "commit": LEGACY_COMMIT,
            "written_at": datetime.now(UTC),
            "paths": paths,
            "documents": _map_values(documents, _abbreviate),
        }
        print(json.dumps(json.loads(json_util.dumps(data)), indent=1))


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
