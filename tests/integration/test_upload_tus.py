"""tus 1.0.0 on running services: every offset, every extension, and what a client may rely on when something fails."""

import base64
import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import bson
import httpx
import pytest

from tests.support.processes import ServiceProcess, StartService, run_service
from tests.support.raw_sockets import receive_until_closed
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    OFFSET_CONTENT_TYPE,
    TUS_HEADERS,
    TusUpload,
    etag,
    expect_problem,
    form_body,
    form_part,
    post_form,
    put_file,
    repr_digest,
    tus_metadata,
    unread_socket_bytes,
)
from tests.support.waiting import eventually

UNKNOWN_UPLOAD_ID = "5f0000000000000000000000-5e0000000000000000000000"


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {
        "GRIDCAST_MAX_FILE_SIZE": str(64 * 1024 * 1024),
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
    }


@pytest.fixture(scope="module")
def second_replica(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A second replica, with the other driver."""
    more = {**env, "GRIDCAST_MONGODB_DRIVER": "pymongo"}
    with run_service("services.upload", tmp_path_factory.mktemp("upload"), more) as service:
        yield service


@pytest.fixture
def tus_upload(upload: ServiceProcess, inspector: MongoInspector) -> TusUpload:
    return TusUpload(upload)


@pytest.fixture
def two_replica_tus_upload(
    upload: ServiceProcess, second_replica: ServiceProcess, inspector: MongoInspector
) -> TusUpload:
    return TusUpload(upload, second_replica)


def test_server_capabilities(upload: ServiceProcess) -> None:
    answer = httpx.options(f"{upload.url}/file/tus")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(64 * 1024 * 1024)
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "checksum",
        "expiration",
        "termination",
        "concatenation",
    }


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, BATCH_SIZE, BATCH_SIZE + 1, 20 * CHUNK_SIZE + 7]
)
def test_every_size_is_stored_whole(tus_upload: TusUpload, inspector: MongoInspector, size: int) -> None:
    data = os.urandom(size)
    created = tus_upload.create(
        length=size, headers={"upload-metadata": tus_metadata(filename="a.webm", folder="demo/x")}
    )
    assert created.status_code == 201
    assert created.headers["location"].startswith("/file/tus/")
    last = created
    if size:
        assert tus_upload.offset() == 0
        last = tus_upload.patch(0, data)
        assert last.status_code == 204
    assert last.headers["upload-offset"] == str(size)
    assert last.headers["etag"] == etag(data)
    assert last.headers["repr-digest"] == repr_digest(data)
    document = inspector.only_document()
    assert (document["folder"], document["filename"], document["uploads"]) == ("demo/x", "a.webm", [])
    assert document["current"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["current"]["content_type"] == "video/webm"
    assert inspector.read_file(document["current"]["file"]) == data
    seen = tus_upload.head()
    assert (seen.headers["upload-offset"], seen.headers["upload-length"]) == (str(size), str(size))
    assert seen.headers["cache-control"] == "no-store"
    # A client that missed the last response repeats the request and gets the same.
    again = tus_upload.patch(size, b"")
    assert (again.status_code, again.headers["upload-offset"]) == (204, str(size))
    assert again.headers["repr-digest"] == repr_digest(data)


def test_upload_resumes_at_any_offset_on_any_replica(
    two_replica_tus_upload: TusUpload, inspector: MongoInspector
) -> None:
    """Offsets that are no multiple of a chunk, each PATCH on another replica than the one before."""
    dice = random.Random(7)
    data = os.urandom(11 * CHUNK_SIZE + 333)
    assert two_replica_tus_upload.create(length=len(data)).status_code == 201
    offset, at = 0, 0
    while offset < len(data):
        step = dice.choice([1, 17, CHUNK_SIZE - 5, CHUNK_SIZE, 2 * CHUNK_SIZE + 1, BATCH_SIZE + 9])
        answer = two_replica_tus_upload.patch(offset, data[offset : offset + step], at)
        assert answer.status_code == 204, answer.text
        offset = int(answer.headers["upload-offset"])
        at = 1 - at
        assert two_replica_tus_upload.offset(at) == offset
    assert answer.headers["repr-digest"] == repr_digest(data)
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data
    assert inspector.list_orphans() == []


def test_wrong_offset_is_409_with_the_current_offset(tus_upload: TusUpload) -> None:
    """Case 26."""
    tus_upload.create(length=1000)
    tus_upload.patch(0, b"x" * 300)
    for offset in (0, 299, 301, 1000):
        answer = tus_upload.patch(offset, b"y" * 10)
        expect_problem(answer, 409)
        assert answer.headers["upload-offset"] == "300"
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert tus_upload.offset() == 300


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_past_the_length_are_rejected(tus_upload: TusUpload, inspector: MongoInspector, *, chunked: bool) -> None:
    """Case 28: 413, and the received bytes stay."""
    tus_upload.create(length=1000)
    tus_upload.patch(0, b"x" * 300)
    body = iter([b"y" * 700, b"z"]) if chunked else b"y" * 701
    expect_problem(tus_upload.patch(300, body), 413)
    assert tus_upload.offset() < 1000
    assert inspector.only_document()["current"] is None
    offset = tus_upload.offset()
    data = b"x" * 300 + b"y" * 700
    assert tus_upload.patch(offset, data[offset:]).headers["repr-digest"] == repr_digest(data)


@pytest.mark.parametrize(
    ("size", "sent", "status"),
    [
        (10, b"a\r\n0123456789\r\n5\r\nabcde\r\n0\r\n\r\n", b"413"),
        (10, b"a\r\n0123456789\r\nx\r\n", b"400"),
        (10, b"a\r\n0123456789\r\n", b""),
        (CHUNK_SIZE, b"%x\r\n%s\r\n1\r\nx\r\n0\r\n\r\n" % (CHUNK_SIZE, b"y" * CHUNK_SIZE), b"413"),
    ],
    ids=["more than its length", "malformed chunk", "ends without its last chunk", "more than one block"],
)
def test_an_interrupted_patch_releases_its_upload(
    two_replica_tus_upload: TusUpload,
    upload: ServiceProcess,
    inspector: MongoInspector,
    size: int,
    sent: bytes,
    status: bytes,
) -> None:
    """All bytes of the upload have come, and it is not stored: HEAD does not wait for the end of the lease."""
    two_replica_tus_upload.create(length=size)
    head = (
        f"PATCH {two_replica_tus_upload.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        "Content-Type: application/offset+octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", upload.port), timeout=10) as connection:
        connection.sendall(head.encode())
        time.sleep(0.2)
        connection.sendall(sent)
        if status:
            assert connection.recv(4096)[9:12] == status
        else:
            eventually(lambda: unread_socket_bytes(upload.port, connection) == 0)
    eventually(lambda: inspector.only_document()["uploads"][0]["lease_until"] is None, 3)
    began = time.monotonic()
    offset = two_replica_tus_upload.offset(1)
    assert time.monotonic() - began < 2
    assert offset < size
    assert two_replica_tus_upload.patch(offset, b"y" * (size - offset), 1).status_code == 204
    assert inspector.only_document()["current"]["length"] == size


def test_rejected_requests_release_what_they_have_acquired(
    two_replica_tus_upload: TusUpload, inspector: MongoInspector
) -> None:
    tus = two_replica_tus_upload
    tus.create(length=10, content=b"012")
    wrong = {"upload-checksum": "sha1 " + base64.b64encode(hashlib.sha1(b"").digest()).decode()}
    for refused in (
        tus.patch(3, b"3456789", headers=wrong),
        tus.patch(3, iter([b"3456789", b"x"])),
        tus.patch(3, b"3", headers={"upload-length": "11"}),
    ):
        assert refused.status_code in {400, 413, 460}
        assert inspector.only_document()["uploads"][0]["lease_until"] is None
        began = time.monotonic()
        assert tus.offset(1) == 3
        assert time.monotonic() - began < 2
    assert tus.patch(3, b"3456789").headers["repr-digest"] == repr_digest(b"0123456789")


@pytest.mark.parametrize("content", [None, b"x", b"y" * 100_000], ids=["no byte", "a byte", "a long tail"])
@pytest.mark.parametrize("way", ["put", "form", "tus"])
def test_unfinished_uploads_do_not_take_a_name_from_others(
    upload: ServiceProcess, inspector: MongoInspector, way: str, content: bytes | None
) -> None:
    """Of one client address or of four; and the document of the name stays small."""
    for number in range(64):
        creation = TusUpload(upload)
        address = {"x-forwarded-for": f"192.0.2.{number // 16}", "upload-metadata": tus_metadata(filename="n")}
        assert creation.create("n", 200_000, content, headers=address).status_code == 201
    assert len(bson.encode(inspector.only_document())) < 128 * 1024
    if way == "put":
        assert put_file(upload, "n", b"mine").status_code == 201
    elif way == "form":
        assert post_form(upload, form_body(form_part("file", b"mine", "n"))).status_code == 201
    else:
        assert TusUpload(upload).create("n", 4, b"mine").status_code == 201
    assert creation.offset() == len(content or b""), "the newest is not the one that makes room"


def test_deferred_length(two_replica_tus_upload: TusUpload, inspector: MongoInspector) -> None:
    data = os.urandom(CHUNK_SIZE + 5)
    assert two_replica_tus_upload.create(length=None, headers={"upload-defer-length": "1"}).status_code == 201
    seen = two_replica_tus_upload.head()
    assert seen.headers["upload-defer-length"] == "1"
    assert "upload-length" not in seen.headers
    two_replica_tus_upload.patch(0, data[:100])
    two_replica_tus_upload.patch(100, data[100:], replica=1)
    assert inspector.only_document()["current"] is None
    expect_problem(two_replica_tus_upload.patch(len(data), b"", headers={"upload-length": "7"}), 400)
    done = two_replica_tus_upload.patch(len(data), b"", headers={"upload-length": str(len(data))})
    assert (done.status_code, done.headers["repr-digest"]) == (204, repr_digest(data))


def test_upload_length_is_immutable(tus_upload: TusUpload) -> None:
    tus_upload.create(length=10)
    expect_problem(tus_upload.patch(0, b"x", headers={"upload-length": "11"}), 400)
    assert tus_upload.patch(0, b"x", headers={"upload-length": "10"}).status_code == 204


def test_creation_with_upload(tus_upload: TusUpload, inspector: MongoInspector) -> None:
    created = tus_upload.create(length=6, content=b"abc")
    assert (created.status_code, created.headers["upload-offset"]) == (201, "3")
    assert tus_upload.patch(3, b"def").headers["repr-digest"] == repr_digest(b"abcdef")
    whole = tus_upload.create("b.bin", length=3, content=b"abc")
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, "3")
    assert whole.headers["etag"] == etag(b"abc")
    assert tus_upload.offset() == 3


def test_creation_with_a_wrong_checksum_leaves_no_data(tus_upload: TusUpload, inspector: MongoInspector) -> None:
    """Its upload URL was given to no client."""
    wrong = base64.b64encode(bytes(20)).decode()
    expect_problem(
        tus_upload.create(
            length=CHUNK_SIZE + 5, content=b"x" * CHUNK_SIZE, headers={"upload-checksum": f"sha1 {wrong}"}
        ),
        460,
    )
    eventually(lambda: inspector.list_documents() == [] and inspector.count_chunks() == 0, 5)


@pytest.mark.parametrize("size", [10, CHUNK_SIZE + 3, BATCH_SIZE + CHUNK_SIZE + 3])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_bytes_are_accepted_only_with_a_matching_checksum(
    two_replica_tus_upload: TusUpload, inspector: MongoInspector, algorithm: str, size: int
) -> None:
    """460, and the offset is unchanged; then the same bytes with the right checksum."""
    data = os.urandom(2 * size)
    right = base64.b64encode(hashlib.new(algorithm, data[:size]).digest()).decode()
    two_replica_tus_upload.create(length=2 * size)
    wrong = two_replica_tus_upload.patch(
        0, bytes([data[0] ^ 1]) + data[1:size], headers={"upload-checksum": f"{algorithm} {right}"}
    )
    expect_problem(wrong, 460)
    assert two_replica_tus_upload.offset() == 0
    assert inspector.count_chunks() == 0
    good = two_replica_tus_upload.patch(0, data[:size], headers={"upload-checksum": f"{algorithm} {right}"})
    assert (good.status_code, good.headers["upload-offset"]) == (204, str(size))
    last = base64.b64encode(hashlib.new(algorithm, data[size:]).digest()).decode()
    assert expect_problem(
        two_replica_tus_upload.patch(
            size, data[size:-1] + bytes([data[-1] ^ 1]), 1, headers={"upload-checksum": f"{algorithm} {last}"}
        ),
        460,
    )
    assert two_replica_tus_upload.offset() == size
    done = two_replica_tus_upload.patch(size, data[size:], 1, headers={"upload-checksum": f"{algorithm} {last}"})
    assert done.headers["repr-digest"] == repr_digest(data)
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data


def test_a_digest_field_is_checked_as_well(tus_upload: TusUpload) -> None:
    tus_upload.create(length=10)
    expect_problem(tus_upload.patch(0, b"hello", headers={"content-digest": repr_digest(b"other")}), 400)
    assert tus_upload.offset() == 0
    assert tus_upload.patch(0, b"hello", headers={"content-digest": repr_digest(b"hello")}).status_code == 204


def test_existing_name_is_rejected_at_creation(tus_upload: TusUpload, upload: ServiceProcess) -> None:
    put_file(upload, "a.bin", b"there")
    assert expect_problem(tus_upload.create(length=10), 409).startswith("Not Unique: ")


def test_upload_that_lost_its_name_is_410(
    two_replica_tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector
) -> None:
    """410 to the last PATCH and to every HEAD after it, on every replica; nothing of it is left."""
    two_replica_tus_upload.create(length=CHUNK_SIZE + 10)
    two_replica_tus_upload.patch(0, b"x" * CHUNK_SIZE)
    put_file(upload, "a.bin", b"was quicker")
    assert expect_problem(two_replica_tus_upload.patch(CHUNK_SIZE, b"x" * 10), 410).startswith("Not Unique: ")
    assert two_replica_tus_upload.head(0).status_code == two_replica_tus_upload.head(1).status_code == 410
    assert expect_problem(two_replica_tus_upload.patch(0, b"x", replica=1), 410).startswith("Not Unique: ")
    assert inspector.count_chunks() == 1
    assert inspector.list_orphans() == []


def test_termination(two_replica_tus_upload: TusUpload, inspector: MongoInspector) -> None:
    two_replica_tus_upload.create(length=3 * CHUNK_SIZE)
    two_replica_tus_upload.patch(0, b"x" * 2 * CHUNK_SIZE)
    assert inspector.count_chunks() == 2
    assert two_replica_tus_upload.delete(1).status_code == 204
    assert two_replica_tus_upload.head().status_code == 404
    expect_problem(two_replica_tus_upload.patch(0, b"x"), 404)
    expect_problem(two_replica_tus_upload.delete(), 404)
    assert inspector.count_chunks() == 0


def test_termination_disconnects_the_active_sender(
    tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector
) -> None:
    tus_upload.create(length=10 * CHUNK_SIZE)
    with tus_upload.open_patch(upload, 0, 10 * CHUNK_SIZE) as sending:
        sending.sendall(os.urandom(2 * CHUNK_SIZE))
        eventually(lambda: tus_upload.offset() == 2 * CHUNK_SIZE)
        assert tus_upload.delete().status_code == 204
        assert sending.recv(64).startswith(b"HTTP/1.1 409 ")
    assert (inspector.only_document()["uploads"], inspector.count_chunks()) == ([], 0)


def test_finished_upload_is_not_terminated(tus_upload: TusUpload, inspector: MongoInspector) -> None:
    tus_upload.create(length=3, content=b"abc")
    expect_problem(tus_upload.delete(), 410)
    assert inspector.only_document()["current"]["length"] == 3


@pytest.mark.parametrize("change", ["deleted", "replaced", "replaced by the same bytes", "created anew"])
def test_an_upload_whose_file_is_not_there_is_gone(
    two_replica_tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector, change: str
) -> None:
    """A client that reads "complete" discards its copy."""
    tus = two_replica_tus_upload
    assert tus.create(length=5, content=b"first").status_code == 201
    assert tus.offset(1) == 5
    query = {"filename": "a.bin"}
    if change.startswith("replaced"):
        put_file(upload, "a.bin", b"first" if change.endswith("bytes") else b"other")
    else:
        assert httpx.delete(f"{upload.url}/file/stream", params=query).status_code == 204
    if change == "created anew":
        again = TusUpload(upload)
        assert again.create(length=5, content=b"first").status_code == 201
        assert again.offset() == 5
        assert again.head().headers["upload-metadata"] == tus_metadata(filename="a.bin")
    for replica in (0, 1):
        assert tus.head(replica).status_code == 410
        expect_problem(tus.patch(5, b"", replica), 410)
        expect_problem(tus.patch(0, b"first", replica), 410)
        expect_problem(tus.delete(replica), 410)


def test_a_final_upload_whose_file_is_not_there_is_gone(
    tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector
) -> None:
    tus_upload.create(None, length=3, content=b"abc", headers={"upload-concat": "partial"})
    concat = {"upload-concat": f"final;{tus_upload.path}", "upload-metadata": tus_metadata(filename="whole")}
    assert tus_upload.create(None, length=None, headers=concat).status_code == 201
    assert tus_upload.offset() == 3
    expect_problem(tus_upload.patch(3, b""), 403)
    assert httpx.delete(f"{upload.url}/file/stream?filename=whole").status_code == 204
    assert tus_upload.head().status_code == 410
    expect_problem(tus_upload.patch(3, b""), 410)


def test_a_finished_upload_without_a_file_id_is_compared_by_its_bytes(
    tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector
) -> None:
    """As earlier versions have stored it."""
    tus_upload.create(length=3, content=b"abc")
    inspector.db["media"].update_one({}, {"$unset": {"ended.0.file": ""}})
    assert tus_upload.offset() == 3
    put_file(upload, "a.bin", b"abc")
    assert tus_upload.offset() == 3
    put_file(upload, "a.bin", b"other")
    assert tus_upload.head().status_code == 410


def test_expiration(start_service: StartService, env: dict[str, str], inspector: MongoInspector) -> None:
    """Case 30: 410 after the expiry, collected or not; the garbage collector leaves nothing."""
    service = start_service(
        "services.upload", **{**env, "GRIDCAST_UNFINISHED_UPLOAD_TTL": "1.5", "GRIDCAST_GC_INTERVAL": "0.3"}
    )
    tus = TusUpload(service)
    created = tus.create(length=CHUNK_SIZE + 10)
    assert created.headers["upload-expires"].endswith(" GMT")
    assert "upload-expires" in tus.patch(0, b"x" * CHUNK_SIZE).headers
    assert "upload-expires" in tus.head().headers
    eventually(lambda: tus.head().status_code == 410, 5)
    expect_problem(tus.patch(CHUNK_SIZE, b"x"), 410)
    eventually(lambda: inspector.list_documents() == [] and inspector.count_chunks() == 0, 5)
    assert tus.head().status_code == 410


@pytest.mark.parametrize("path", [UNKNOWN_UPLOAD_ID, "x", "5f0000000000000000000000", "%7B%22$ne%22:1%7D", "a" * 200])
def test_unknown_upload_is_not_found(upload: ServiceProcess, path: str) -> None:
    """Case 33: an id is never a query. One that looks old enough may have expired."""
    for method in ("HEAD", "PATCH", "DELETE"):
        headers = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": "0"}
        answer = httpx.request(method, f"{upload.url}/file/tus/{path}", headers=headers)
        assert answer.status_code in ({410} if path == UNKNOWN_UPLOAD_ID else {404}), answer.text
    assert "Traceback" not in upload.log


REJECTED_CREATIONS: list[tuple[str, dict[str, str], int]] = [
    ("no length", {"upload-metadata": tus_metadata(filename="a")}, 400),
    (
        "both lengths",
        {"upload-length": "1", "upload-defer-length": "1", "upload-metadata": tus_metadata(filename="a")},
        400,
    ),
    ("defer 2", {"upload-defer-length": "2", "upload-metadata": tus_metadata(filename="a")}, 400),
    ("negative", {"upload-length": "-1", "upload-metadata": tus_metadata(filename="a")}, 400),
    ("plus", {"upload-length": "+1", "upload-metadata": tus_metadata(filename="a")}, 400),
    ("huge", {"upload-length": "9" * 30, "upload-metadata": tus_metadata(filename="a")}, 400),
    ("over the limit", {"upload-length": str(2**40), "upload-metadata": tus_metadata(filename="a")}, 413),
    ("no name", {"upload-length": "1"}, 400),
    ("bad name", {"upload-length": "1", "upload-metadata": tus_metadata(filename="../a")}, 400),
    ("bad folder", {"upload-length": "1", "upload-metadata": tus_metadata(filename="a", folder="/x")}, 400),
    ("not base64", {"upload-length": "1", "upload-metadata": "filename !!!"}, 400),
    ("not UTF-8", {"upload-length": "1", "upload-metadata": "filename /w=="}, 400),
    ("key twice", {"upload-length": "1", "upload-metadata": "filename YQ==,filename YQ=="}, 400),
    ("long metadata", {"upload-length": "1", "upload-metadata": tus_metadata(filename="a", x="y" * 19_000)}, 400),
    ("bad type", {"upload-length": "1", "upload-metadata": tus_metadata(filename="a", filetype="x y")}, 400),
    ("bad concat", {"upload-length": "1", "upload-concat": "whole"}, 400),
    ("no parts", {"upload-concat": "final;", "upload-metadata": tus_metadata(filename="a")}, 400),
    ("final with length", {"upload-concat": f"final;/file/tus/{UNKNOWN_UPLOAD_ID}", "upload-length": "1"}, 400),
    (
        "unknown part",
        {"upload-concat": f"final;/file/tus/{UNKNOWN_UPLOAD_ID}", "upload-metadata": tus_metadata(filename="a")},
        400,
    ),
]


@pytest.mark.parametrize(
    ("headers", "status"), [case[1:] for case in REJECTED_CREATIONS], ids=[case[0] for case in REJECTED_CREATIONS]
)
def test_invalid_creations_are_rejected(
    upload: ServiceProcess, inspector: MongoInspector, headers: dict[str, str], status: int
) -> None:
    answer = httpx.post(f"{upload.url}/file/tus", headers={**TUS_HEADERS, **headers})
    expect_problem(answer, status)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert inspector.list_documents() == []


def test_invalid_patches_are_rejected(tus_upload: TusUpload, upload: ServiceProcess) -> None:
    tus_upload.create(length=10)
    url = upload.url + tus_upload.path
    patch = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": "0"}
    for change, status in (
        ({"content-type": "application/json"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"upload-offset": "x"}, 400),
        ({"upload-offset": "-1"}, 400),
        ({"upload-checksum": "md5 AAAA"}, 400),
        ({"upload-checksum": "sha1 AAAA"}, 400),
        ({"tus-resumable": "0.2.2"}, 412),
    ):
        answer = httpx.patch(url, headers={**patch, **change}, content=b"x")
        expect_problem(answer, status)
        assert answer.headers["tus-resumable"] == "1.0.0"
    expect_problem(httpx.patch(url, headers={**TUS_HEADERS, **OFFSET_CONTENT_TYPE}, content=b"x"), 400)
    assert httpx.head(url).status_code == 412
    assert httpx.head(url).headers["tus-version"] == "1.0.0"
    assert tus_upload.offset() == 0


def test_method_override_header(tus_upload: TusUpload, upload: ServiceProcess) -> None:
    """Tus 1.0.0, X-HTTP-Method-Override."""
    tus_upload.create(length=3)
    url = upload.url + tus_upload.path
    sent = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": "0", "x-http-method-override": "PATCH"}
    assert httpx.post(url, headers=sent, content=b"ab").status_code == 204
    assert httpx.post(url, headers={**TUS_HEADERS, "x-http-method-override": "HEAD"}).headers["upload-offset"] == "2"
    assert httpx.post(url, headers={**TUS_HEADERS, "x-http-method-override": "DELETE"}).status_code == 204
    expect_problem(httpx.post(url, headers=TUS_HEADERS), 405)


def test_concatenation(two_replica_tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector) -> None:
    """Parts of any size, written on two replicas, become one file; the parts are deleted."""
    sizes = [10, CHUNK_SIZE, 0, BATCH_SIZE + 77, 3 * CHUNK_SIZE - 1]
    parts = [os.urandom(size) for size in sizes]
    paths = []
    for number, data in enumerate(parts):
        assert (
            two_replica_tus_upload.create(None, length=len(data), headers={"upload-concat": "partial"}).status_code
            == 201
        )
        paths.append(two_replica_tus_upload.path)
        if data:
            half = len(data) // 2
            assert two_replica_tus_upload.patch(0, data[:half], number % 2).status_code == 204
            assert two_replica_tus_upload.patch(half, data[half:], (number + 1) % 2).status_code == 204
        seen = two_replica_tus_upload.head()
        assert seen.headers["upload-concat"] == "partial"
        assert seen.headers["upload-offset"] == str(len(data))
    concat = "final;" + " ".join([paths[0], upload.url + paths[1], *paths[2:]])
    done = two_replica_tus_upload.create("whole.bin", length=None, headers={"upload-concat": concat})
    assert done.status_code == 201, done.text
    whole = b"".join(parts)
    assert done.headers["repr-digest"] == repr_digest(whole)
    seen = two_replica_tus_upload.head(1)
    assert seen.headers["upload-concat"] == concat
    assert seen.headers["upload-length"] == seen.headers["upload-offset"] == str(len(whole))
    expect_problem(two_replica_tus_upload.patch(0, b"x"), 403)
    document = inspector.only_document()
    assert inspector.read_file(document["current"]["file"]) == whole
    assert inspector.list_orphans() == []


def test_unfinished_partial_upload_cannot_be_concatenated(
    two_replica_tus_upload: TusUpload, inspector: MongoInspector
) -> None:
    two_replica_tus_upload.create(None, length=10, headers={"upload-concat": "partial"})
    part = two_replica_tus_upload.path
    two_replica_tus_upload.patch(0, b"12345")
    concat = {"upload-concat": f"final;{part}", "upload-metadata": tus_metadata(filename="a")}
    expect_problem(httpx.post(two_replica_tus_upload.urls[0] + "/file/tus", headers={**TUS_HEADERS, **concat}), 409)
    two_replica_tus_upload.path = part
    assert two_replica_tus_upload.offset() == 5
    assert two_replica_tus_upload.patch(5, b"67890").status_code == 204
    put_first = two_replica_tus_upload.create("a", length=3, content=b"abc")
    assert put_first.status_code == 201
    expect_problem(httpx.post(two_replica_tus_upload.urls[0] + "/file/tus", headers={**TUS_HEADERS, **concat}), 409)
    two_replica_tus_upload.path = part
    assert two_replica_tus_upload.offset() == 10


@pytest.mark.parametrize(("name", "partial", "status"), [("a.bin", {}, 400), (None, {"upload-concat": "partial"}, 409)])
def test_rejected_concatenation_does_not_affect_active_uploads(
    two_replica_tus_upload: TusUpload, upload: ServiceProcess, name: str | None, partial: dict[str, str], status: int
) -> None:
    """Partial uploads that cannot be concatenated stay with their writer."""
    two_replica_tus_upload.create(name, length=10, headers=partial)
    with two_replica_tus_upload.open_patch(upload, 0, 10) as writing:
        writing.sendall(b"12345")
        eventually(lambda: two_replica_tus_upload.offset() == 5)
        head = {"upload-concat": f"final;{two_replica_tus_upload.path}", "upload-metadata": tus_metadata(filename="w")}
        for url in two_replica_tus_upload.urls:
            expect_problem(httpx.post(f"{url}/file/tus", headers={**TUS_HEADERS, **head}), status)
        writing.sendall(b"67890")
        assert writing.recv(65536).startswith(b"HTTP/1.1 204 ")
    assert two_replica_tus_upload.offset() == 10


@pytest.mark.parametrize("at", [0, 1])
def test_stalled_patch_is_superseded_without_data_loss(
    two_replica_tus_upload: TusUpload, upload: ServiceProcess, at: int, inspector: MongoInspector
) -> None:
    """Cases 27 and 29: HEAD within 5 s shows every byte the service has read; a newer PATCH continues, the older one is aborted."""
    data = os.urandom(3 * CHUNK_SIZE)
    two_replica_tus_upload.create(length=len(data))
    sent = CHUNK_SIZE + 1000
    with two_replica_tus_upload.open_patch(upload, 0, len(data)) as stalled:
        stalled.sendall(data[:sent])
        eventually(lambda: two_replica_tus_upload.offset(at) == sent, 5)
        began = time.monotonic()
        assert two_replica_tus_upload.offset(at) == sent
        assert time.monotonic() - began < 5
        done = two_replica_tus_upload.patch(sent, data[sent:], at)
        assert (done.status_code, done.headers["repr-digest"]) == (204, repr_digest(data))
        if at == 0:
            stalled.settimeout(5)
            assert receive_until_closed(stalled).startswith(b"HTTP/1.1 409 ")
        else:
            stalled.sendall(data[sent:])
            assert stalled.recv(65536).startswith(b"HTTP/1.1 409 ")
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data


@pytest.mark.parametrize("at", [0, 1])
def test_broken_connection_loses_no_received_bytes(
    two_replica_tus_upload: TusUpload, upload: ServiceProcess, inspector: MongoInspector, at: int
) -> None:
    data = os.urandom(2 * BATCH_SIZE + 99)
    two_replica_tus_upload.create(length=len(data))
    offset = 0

    def is_kept(sent: int) -> bool:
        return sent - 65536 <= two_replica_tus_upload.offset(at) <= sent

    for sent in (10, CHUNK_SIZE + 1, BATCH_SIZE + 5, 2 * BATCH_SIZE):
        with two_replica_tus_upload.open_patch(upload, offset, len(data) - offset) as connection:
            connection.sendall(data[offset:sent])
            # Until it is read: bytes still in a socket when it breaks are lost.
            eventually(lambda: unread_socket_bytes(upload.port, connection) == 0)
        # Our HTTP server discards what it has buffered, up to 64 KiB, when the connection breaks.
        eventually(partial(is_kept, sent), 5)
        offset = two_replica_tus_upload.offset(at)
    assert two_replica_tus_upload.patch(offset, data[offset:], at).headers["repr-digest"] == repr_digest(data)


def test_concurrent_patches_make_one_file(two_replica_tus_upload: TusUpload, inspector: MongoInspector) -> None:
    """Case 27: the newest PATCH continues; the other one gets 409; no bytes are mixed."""
    data = os.urandom(4 * BATCH_SIZE)
    two_replica_tus_upload.create(length=len(data))
    for _ in range(20):
        offset = two_replica_tus_upload.offset()
        if offset == len(data):
            break

        def send(at: int, offset: int = offset) -> int:
            return TusUpload.patch(
                two_replica_tus_upload, offset, data[offset : offset + BATCH_SIZE + 5], at
            ).status_code

        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(send, (0, 1))) <= {204, 409}
    assert two_replica_tus_upload.offset(1) == len(data)
    assert inspector.only_document()["current"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert inspector.list_orphans() == []


def test_service_shutdown_loses_no_received_bytes(
    start_service: StartService, env: dict[str, str], upload: ServiceProcess, inspector: MongoInspector
) -> None:
    """SIGTERM while a PATCH is open: what was read is durable, and another replica continues."""
    service = start_service("services.upload", **{**env, "GRIDCAST_SHUTDOWN_TIMEOUT": "1"})
    data = os.urandom(CHUNK_SIZE + 500)
    tus = TusUpload(service, upload)
    tus.create(length=len(data))
    with tus.open_patch(service, 0, len(data)) as connection:
        connection.sendall(data[: CHUNK_SIZE + 7])
        eventually(lambda: unread_socket_bytes(service.port, connection) == 0)
        time.sleep(0.2)
        service.terminate()
        assert receive_until_closed(connection).startswith(b"HTTP/1.1 503 ")
    assert tus.offset(1) == CHUNK_SIZE + 7
    assert tus.patch(CHUNK_SIZE + 7, data[CHUNK_SIZE + 7 :], 1).headers["repr-digest"] == repr_digest(data)
    assert "Traceback" not in service.log
