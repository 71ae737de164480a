"""POST /file/upload on a real service: what is stored, what is refused, and that nothing refused leaves a chunk."""

import contextlib
import hashlib
import json
import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import (
    BOUNDARY,
    form_body,
    form_part,
    post_form,
)
from tests.support.upload_client import FORM_CONTENT_TYPE as TYPE
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {"GRIDCAST_MAX_FILE_SIZE": str(8 * 1024 * 1024)}


@pytest.fixture
def dedicated_inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 8 * CHUNK_SIZE, 8 * CHUNK_SIZE + 1, 20 * CHUNK_SIZE + 7]
)
def test_every_size_is_stored_whole(upload: ServiceProcess, inspector: MongoInspector, size: int) -> None:
    """Cases 13 and 14: nothing, one byte, and both sides of every chunk and batch boundary."""
    data = os.urandom(size)
    answer = post_form(upload, form_body(form_part("file", data, "a.webm"), form_part("folder", b"demo")))
    assert answer.status_code == 201, answer.text
    assert inspector.read_current(answer.json()) == data
    (document,) = inspector.list_documents()
    assert document["current"]["length"] == size
    assert document["current"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["current"]["content_type"] == "video/webm"
    assert (document["folder"], document["filename"], document["uploads"]) == ("demo", "a.webm", [])
    assert answer.headers["location"] == "/file/stream?filename=a.webm&folder=demo"
    if isinstance(inspector, MongoInspector):
        described = inspector.db["fs.files"].find_one({"_id": document["current"]["file"]})
        assert described is not None
        assert (described["length"], described["chunkSize"], described["filename"]) == (size, CHUNK_SIZE, "demo/a.webm")


@pytest.mark.parametrize(
    ("parts", "query"),
    [
        ((form_part("folder", b"f"), form_part("file", b"x", "n")), ""),
        ((form_part("file", b"x", "n"), form_part("folder", b"f")), ""),
        ((form_part("file", b"x", "n"),), "?folder=f"),
        ((form_part("file", b"x", "n"), form_part("folder", b"f")), "?folder=f"),
        (
            (form_part("file", b"x" * (3 * 8 * CHUNK_SIZE), "n"), form_part("folder", b"f"), form_part("sid", b"ABC")),
            "",
        ),
        ((form_part("file", b"x", "n"), form_part("folder", "e\u0301".encode())), "?folder=e%CC%81"),
    ],
)
def test_form_fields_may_come_in_any_order(
    upload: ServiceProcess, inspector: MongoInspector, parts: tuple[bytes, ...], query: str
) -> None:
    assert post_form(upload, form_body(*parts), query).status_code == 201
    (document,) = inspector.list_documents()
    assert (document["folder"], document["filename"]) == ("\u00e9" if "%" in query else "f", "n")


FILE_PART = form_part("file", b"hello", "a.txt")
REJECTED_FORMS: list[tuple[str, bytes, str, int, str]] = [
    ("no closing boundary", form_body(FILE_PART)[:-24], TYPE, 400, "closing boundary"),
    ("no boundary", form_body(FILE_PART), "multipart/form-data", 400, "boundary"),
    ("boundary of 300 bytes", form_body(FILE_PART), "multipart/form-data; boundary=" + "x" * 300, 400, "boundary"),
    ("urlencoded", b"file=x", "application/x-www-form-urlencoded", 415, "multipart"),
    ("json", b"{}", "application/json", 415, "multipart"),
    ("no file", form_body(form_part("folder", b"x")), TYPE, 400, "'file' is missing"),
    ("no file chosen", form_body(form_part("file", b"", "")), TYPE, 400, "no file was chosen"),
    ("65 keys", form_body(*(form_part(f"k{n}", b"") for n in range(65)), FILE_PART), TYPE, 413, "64 keys"),
    ("17 KiB of metadata", form_body(FILE_PART, form_part("a", b'"' * 8200)), TYPE, 413, "16384 bytes"),
    ("a key twice", form_body(FILE_PART, form_part("a", b"1"), form_part("a", b"2")), TYPE, 400, "duplicate field"),
    ("empty body", b"", TYPE, 400, "closing boundary"),
    ("file as text", form_body(form_part("file", b"x")), TYPE, 400, "no filename"),
    ("two files", form_body(FILE_PART, FILE_PART), TYPE, 400, "duplicate field"),
    (
        "two folders",
        form_body(FILE_PART, form_part("folder", b"a"), form_part("folder", b"b")),
        TYPE,
        400,
        "duplicate field",
    ),
    ("unknown file field", form_body(form_part("video", b"x", "a")), TYPE, 400, "unknown file field"),
    ("empty filename", form_body(form_part("file", b"x", "")), TYPE, 400, "filename is empty"),
    ("parent", form_body(form_part("file", b"x", "../../etc/passwd")), TYPE, 400, "filename"),
    ("backslash", form_body(form_part("file", b"x", "..\\\\x")), TYPE, 400, "filename"),
    ("path of Windows", form_body(form_part("file", b"x", "C:\\dir\\x")), TYPE, 400, "filename"),
    ("encoded line end", form_body(form_part("file", b"x", "a%0D%0Ab")), TYPE, 400, "U+000D"),
    ("slash", form_body(form_part("file", b"x", "a/b")), TYPE, 400, "filename"),
    ("dot", form_body(form_part("file", b"x", ".")), TYPE, 400, "filename"),
    ("dots", form_body(form_part("file", b"x", "..")), TYPE, 400, "filename"),
    ("NUL", form_body(form_part("file", b"x", "a\0b")), TYPE, 400, ""),
    ("escape", form_body(form_part("file", b"x", "a\x1bb")), TYPE, 400, ""),
    ("bidi", form_body(form_part("file", b"x", "a\u202egpj.exe")), TYPE, 400, "U+202E"),
    ("zero width", form_body(form_part("file", b"x", "a\u200bb")), TYPE, 400, "U+200B"),
    ("256 bytes", form_body(form_part("file", b"x", "a" * 256)), TYPE, 400, "255 bytes"),
    ("256 bytes of UTF-8", form_body(form_part("file", b"x", "ä" * 128)), TYPE, 400, "255 bytes"),
    ("not UTF-8", form_body(form_part("file", b"x", "a\udcff")), TYPE, 400, "UTF-8"),
    ("folder not UTF-8", form_body(FILE_PART, form_part("folder", b"\xff")), TYPE, 400, "UTF-8"),
    ("long folder", form_body(FILE_PART, form_part("folder", b"a/" * 700 + b"a")), TYPE, 400, "1024 bytes"),
    ("folder leads out", form_body(FILE_PART, form_part("folder", b"a/../b")), TYPE, 400, "folder"),
    ("absolute folder", form_body(FILE_PART, form_part("folder", b"/a")), TYPE, 400, "folder"),
    ("folder ends in a slash", form_body(FILE_PART, form_part("folder", b"a/")), TYPE, 400, "folder"),
    ("content type with a line end", form_body(form_part("file", b"x", "a", "text/html\x01")), TYPE, 400, ""),
    ("content type of two words", form_body(form_part("file", b"x", "a", "text html")), TYPE, 400, "media type"),
    (
        "9 part headers",
        b"--" + BOUNDARY + b"\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(9)) + b"\r\nx\r\n",
        TYPE,
        400,
        "malformed",
    ),
    ("5 KiB part header", b"--" + BOUNDARY + b"\r\nX: " + b"a" * 5120 + b"\r\n\r\nx\r\n", TYPE, 400, "malformed"),
    ("1,001 fields", form_body(*(form_part("submit", b"") for _ in range(1001))), TYPE, 413, "128 parts"),
    ("1,001 empty inputs", form_body(*(form_part("file", b"", "") for _ in range(1001))), TYPE, 413, "128 parts"),
    ("long text field", form_body(form_part("folder", b"a" * 20000)), TYPE, 413, "longer than"),
    ("file over the limit", form_body(form_part("file", bytes(8 * 1024 * 1024 + 1), "a")), TYPE, 413, "larger than"),
]


@pytest.mark.parametrize(
    ("body", "kind", "status", "word"), [c[1:] for c in REJECTED_FORMS], ids=[c[0] for c in REJECTED_FORMS]
)
def test_invalid_form_is_explained_and_leaves_no_data(
    upload: ServiceProcess, inspector: MongoInspector, body: bytes, kind: str, status: int, word: str
) -> None:
    answer = post_form(upload, body, content_type=kind)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert word in problem["detail"]
    assert status != 400 or problem["detail"].startswith("Validation Error: ")
    assert inspector.count_chunks() == 0
    assert inspector.list_documents() == []
    assert "Traceback" not in upload.log


@pytest.mark.parametrize("chunked", [False, True])
def test_a_text_field_of_a_gibibyte(
    start_service: StartService, env: dict[str, str], inspector: MongoInspector, *, chunked: bool
) -> None:
    """Case 8: rejected as soon as it is too long, and memory stays flat. The file before it is rolled back."""
    service = start_service("services.upload", **{**env, "GRIDCAST_MAX_FILE_SIZE": str(16 * 1024 * MIB)})
    assert post_form(service, form_body(FILE_PART, form_part("folder", b"warm"))).status_code == 201
    before = resident_memory(service.pid)
    first = form_part("file", os.urandom(CHUNK_SIZE), "n") + form_part("folder", b"").removesuffix(b"\r\n")
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (1024 * MIB)
    head = (
        b"POST /file/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        + TYPE.encode()
        + b"\r\n"
        + framing
        + b"\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head)
        piece, sent, most = first, 0, 0
        while not select.select([client], [], [], 0)[0]:
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent, most, piece = sent + len(piece), max(most, resident_memory(service.pid)), b"a" * 65536
            assert sent < 64 * MIB
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the field 'folder' is longer than" in answer
    assert most - before < 8 * MIB
    eventually(lambda: inspector.count_chunks() == 1)
    assert inspector.only_document()["folder"] == "warm"
    assert "Traceback" not in service.log


MONGODB_OPERATOR = '{"$ne": 1}'


def test_mongodb_operators_are_no_names_and_no_ids(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """Case 33: as JSON it is rejected, anywhere else it is plain text. It finds no existing file."""
    assert post_form(upload, form_body(form_part("file", b"x", "n"), form_part("folder", b"f"))).status_code == 201
    for path in ("/file/upload", "/file/upload?folder=f"):
        sent = httpx.post(upload.url + path, json={"file": {"$ne": 1}, "folder": {"$ne": 1}})
        assert sent.status_code == 415
    operator = {"filename": MONGODB_OPERATOR, "folder": MONGODB_OPERATOR}
    assert httpx.delete(f"{upload.url}/file/stream", params=operator).status_code == 404
    assert httpx.put(f"{upload.url}/file/stream", params=operator, headers={"if-match": "*"}).status_code == 412
    for brackets in ("filename[$ne]=1&folder[$ne]=1", "filename=n&folder[$ne]=1", "filename[]=n"):
        assert httpx.delete(f"{upload.url}/file/stream?{brackets}").status_code in {400, 404}
    (document,) = inspector.list_documents()
    assert (document["folder"], document["filename"]) == ("f", "n")
    assert inspector.read_file(document["current"]["file"]) == b"x"
    # A body of that kind is a normal file, and such a name a normal name.
    stored = httpx.put(f"{upload.url}/file/stream", params=operator, json={"_id": {"$ne": 1}})
    assert stored.status_code == 201
    assert stored.json()["filename"] == MONGODB_OPERATOR
    assert "Traceback" not in upload.log


@pytest.mark.parametrize("folder", ["$where", "a.b", "__proto__", "$$NOW", "{}", "a b", "日本"])
def test_special_names_are_stored_as_plain_text(upload: ServiceProcess, inspector: MongoInspector, folder: str) -> None:
    """Case 34: no operator and no field path, here or in the content type."""
    name = "$current.sha256"
    assert (
        post_form(
            upload, form_body(form_part("file", b"x", name, "$x/$$NOW"), form_part("folder", folder.encode()))
        ).status_code
        == 201
    )
    (document,) = inspector.list_documents()
    assert (document["folder"], document["filename"]) == (folder, name)
    assert document["current"]["content_type"] == "$x/$$NOW"


def test_second_file_of_a_name_is_rejected(upload: ServiceProcess, inspector: MongoInspector) -> None:
    """409 with the tutorial's text; NFC and NFD are one name (case 19)."""
    assert post_form(upload, form_body(form_part("file", b"one", "\u00e9.txt"))).status_code == 201
    for body in (
        form_body(form_part("file", b"two", "e\u0301.txt")),
        form_body(form_part("file", b"two" * CHUNK_SIZE * 8, "\u00e9.txt")),
    ):
        again = post_form(upload, body)
        assert again.status_code == 409
        assert again.json()["detail"].startswith("Not Unique: ")
    (document,) = inspector.list_documents()
    assert document["current"]["length"] == 3
    assert document["uploads"] == []
    assert inspector.count_chunks() == 1


@pytest.mark.parametrize("size", [10, 9 * CHUNK_SIZE])
def test_one_of_many_concurrent_uploads_of_one_name_wins(
    upload: ServiceProcess, inspector: MongoInspector, size: int
) -> None:
    """Case 15: one 201, the rest 409, and no chunk of the losers."""
    start = threading.Barrier(12)

    def race(number: int) -> int:
        start.wait()
        where = {0: "?folder=r", 1: ""}[number % 2]
        fields = () if number % 2 == 0 else (form_part("folder", b"r"),)
        return post_form(upload, form_body(form_part("file", bytes([number]) * size, "x"), *fields), where).status_code

    with ThreadPoolExecutor(12) as pool:
        assert Counter(pool.map(race, range(12))) == {201: 1, 409: 11}
    (document,) = inspector.list_documents()
    assert document["uploads"] == []
    assert inspector.count_chunks() == -(-size // CHUNK_SIZE)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [10, 9 * CHUNK_SIZE])
def test_disconnected_client_leaves_no_data(
    upload: ServiceProcess, inspector: MongoInspector, size: int, *, chunked: bool
) -> None:
    """Cases 1 and 2: deleted within 5 s, with Content-Length and without."""
    body = form_body(form_part("file", os.urandom(2 * size), "half.bin"))[: size + 200]
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (2 * size)
    head = (
        b"POST /file/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        + TYPE.encode()
        + b"\r\n"
        + framing
        + b"\r\n\r\n"
    )
    payload = b"%x\r\n%b\r\n" % (len(body), body) if chunked else body
    with contextlib.closing(socket.create_connection(("127.0.0.1", upload.port))) as client:
        client.sendall(head + payload)
        if size > 8 * CHUNK_SIZE:
            eventually(lambda: inspector.count_chunks() >= 8, 5)
    eventually(lambda: inspector.count_chunks() == 0 and inspector.list_documents() == [], 5)
    assert "Traceback" not in upload.log


def test_unavailable_redis_does_not_stop_uploads(
    start_service: StartService, mongod: ServerProcess, database_name: str, dedicated_inspector: MongoInspector
) -> None:
    """The file is stored, and the event stays in the outbox until it can be pushed."""
    service = start_service(
        "services.upload",
        **storage_env(mongod, "redis://127.0.0.1:1/0", database_name),
    )
    assert post_form(service, form_body(FILE_PART)).status_code == 201
    (document,) = dedicated_inspector.list_documents()
    assert [note["type"] for note in document["announce"]] == ["file.created"]


def test_not_ready_without_the_unique_index(
    start_service: StartService, mongod: ServerProcess, database_name: str, dedicated_inspector: MongoInspector
) -> None:
    """Case 102: existing duplicates make the unique index impossible; the service reports it and is not ready."""
    dedicated_inspector.db["media"].insert_many([{"folder": "", "filename": "x"}, {"folder": "", "filename": "x"}])
    service = start_service(
        "services.upload", ready=False, GRIDCAST_MONGODB_URI=mongod.url, GRIDCAST_MONGODB_DATABASE=database_name
    )

    def told() -> bool:
        answer = httpx.get(f"{service.url}/readyz")
        return answer.status_code == 503 and "index name cannot be built" in json.dumps(answer.json())

    eventually(told, 15)


def test_unavailable_mongodb_is_reported_within_three_seconds(start_service: StartService, redis_url: str) -> None:
    service = start_service(
        "services.upload", ready=False, GRIDCAST_MONGODB_URI="mongodb://127.0.0.1:1", GRIDCAST_REDIS_URL=redis_url
    )
    eventually(lambda: httpx.get(f"{service.url}/livez").status_code == 200, 15)
    answer = post_form(service, form_body(FILE_PART))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.elapsed.total_seconds() < 3
    assert httpx.get(f"{service.url}/readyz").status_code == 503
