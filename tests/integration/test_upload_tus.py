"""tus 1.0.0 on real services: every offset, every extension, and what a client may rely on when something breaks."""

import base64
import hashlib
import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.processes import Service, Start, launched
from tests.support.upload_client import (
    BATCH,
    CHUNK,
    OFFSET_TYPE,
    TUS,
    Store,
    Tus,
    etag,
    metadata,
    problem,
    put,
    repr_digest,
    unread,
)
from tests.support.waiting import eventually

NOBODY = "5f0000000000000000000000-5e0000000000000000000000"


@pytest.fixture(scope="module")
def upload_settings() -> dict[str, str]:
    return {
        "GRIDCAST_MAX_FILE_SIZE": str(64 * 1024 * 1024),
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
    }


@pytest.fixture(scope="module")
def other(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A second replica, with the other driver."""
    more = {**env, "GRIDCAST_MONGODB_DRIVER": "pymongo"}
    with launched("services.upload", tmp_path_factory.mktemp("upload"), more) as service:
        yield service


@pytest.fixture
def tus(upload: Service, store: Store) -> Tus:
    return Tus(upload)


@pytest.fixture
def both(upload: Service, other: Service, store: Store) -> Tus:
    return Tus(upload, other)


def test_what_the_server_can_do(upload: Service) -> None:
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


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BATCH, BATCH + 1, 20 * CHUNK + 7])
def test_every_size_is_stored_whole(tus: Tus, store: Store, size: int) -> None:
    data = os.urandom(size)
    created = tus.create(length=size, **{"upload-metadata": metadata(filename="a.webm", folder="demo/x")})
    assert created.status_code == 201
    assert created.headers["location"].startswith("/file/tus/")
    last = created
    if size:
        assert tus.offset() == 0
        last = tus.patch(0, data)
        assert last.status_code == 204
    assert last.headers["upload-offset"] == str(size)
    assert last.headers["etag"] == etag(data)
    assert last.headers["repr-digest"] == repr_digest(data)
    document = store.one()
    assert (document["folder"], document["filename"], document["uploads"]) == ("demo/x", "a.webm", [])
    assert document["current"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert document["current"]["content_type"] == "video/webm"
    assert store.bytes_in(document["current"]["file"]) == data
    seen = tus.head()
    assert (seen.headers["upload-offset"], seen.headers["upload-length"]) == (str(size), str(size))
    assert seen.headers["cache-control"] == "no-store"
    # Whoever did not get the last answer asks again, and hears the same.
    again = tus.patch(size, b"")
    assert (again.status_code, again.headers["upload-offset"]) == (204, str(size))
    assert again.headers["repr-digest"] == repr_digest(data)


def test_any_offset_on_any_replica(both: Tus, store: Store) -> None:
    """Offsets that are no multiple of anything, each PATCH on another replica than the one before."""
    dice = random.Random(7)
    data = os.urandom(11 * CHUNK + 333)
    assert both.create(length=len(data)).status_code == 201
    offset, at = 0, 0
    while offset < len(data):
        step = dice.choice([1, 17, CHUNK - 5, CHUNK, 2 * CHUNK + 1, BATCH + 9])
        answer = both.patch(offset, data[offset : offset + step], at)
        assert answer.status_code == 204, answer.text
        offset = int(answer.headers["upload-offset"])
        at = 1 - at
        assert both.offset(at) == offset
    assert answer.headers["repr-digest"] == repr_digest(data)
    assert store.bytes_in(store.one()["current"]["file"]) == data
    assert store.orphans() == []


def test_the_wrong_offset_is_told_the_right_one(tus: Tus) -> None:
    """Case 26."""
    tus.create(length=1000)
    tus.patch(0, b"x" * 300)
    for offset in (0, 299, 301, 1000):
        answer = tus.patch(offset, b"y" * 10)
        problem(answer, 409)
        assert answer.headers["upload-offset"] == "300"
        assert answer.headers["tus-resumable"] == "1.0.0"
    assert tus.offset() == 300


@pytest.mark.parametrize("chunked", [False, True])
def test_past_the_end_is_refused(tus: Tus, store: Store, *, chunked: bool) -> None:
    """Case 28: 413, and what was there stays."""
    tus.create(length=1000)
    tus.patch(0, b"x" * 300)
    body = iter([b"y" * 700, b"z"]) if chunked else b"y" * 701
    problem(tus.patch(300, body), 413)
    assert tus.offset() < 1000
    assert store.one()["current"] is None
    offset = tus.offset()
    data = b"x" * 300 + b"y" * 700
    assert tus.patch(offset, data[offset:]).headers["repr-digest"] == repr_digest(data)


def test_the_length_may_come_later(both: Tus, store: Store) -> None:
    data = os.urandom(CHUNK + 5)
    assert both.create(length=None, **{"upload-defer-length": "1"}).status_code == 201
    seen = both.head()
    assert seen.headers["upload-defer-length"] == "1"
    assert "upload-length" not in seen.headers
    both.patch(0, data[:100])
    both.patch(100, data[100:], at=1)
    assert store.one()["current"] is None
    problem(both.patch(len(data), b"", **{"upload-length": "7"}), 400)
    done = both.patch(len(data), b"", **{"upload-length": str(len(data))})
    assert (done.status_code, done.headers["repr-digest"]) == (204, repr_digest(data))


def test_a_length_does_not_change(tus: Tus) -> None:
    tus.create(length=10)
    problem(tus.patch(0, b"x", **{"upload-length": "11"}), 400)
    assert tus.patch(0, b"x", **{"upload-length": "10"}).status_code == 204


def test_the_first_bytes_may_come_with_the_creation(tus: Tus, store: Store) -> None:
    created = tus.create(length=6, content=b"abc")
    assert (created.status_code, created.headers["upload-offset"]) == (201, "3")
    assert tus.patch(3, b"def").headers["repr-digest"] == repr_digest(b"abcdef")
    whole = tus.create("b.bin", length=3, content=b"abc")
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, "3")
    assert whole.headers["etag"] == etag(b"abc")
    assert tus.offset() == 3


def test_a_creation_whose_first_bytes_are_wrong_leaves_nothing(tus: Tus, store: Store) -> None:
    """Its address was told to nobody."""
    wrong = base64.b64encode(bytes(20)).decode()
    problem(tus.create(length=CHUNK + 5, content=b"x" * CHUNK, **{"upload-checksum": f"sha1 {wrong}"}), 460)
    eventually(lambda: store.media() == [] and store.chunks() == 0, 5)


@pytest.mark.parametrize("size", [10, CHUNK + 3, BATCH + CHUNK + 3])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_bytes_with_a_checksum_count_when_it_is_right(both: Tus, store: Store, algorithm: str, size: int) -> None:
    """460, and the offset has not moved; then the same bytes with the right one."""
    data = os.urandom(2 * size)
    right = base64.b64encode(hashlib.new(algorithm, data[:size]).digest()).decode()
    both.create(length=2 * size)
    wrong = both.patch(0, bytes([data[0] ^ 1]) + data[1:size], **{"upload-checksum": f"{algorithm} {right}"})
    problem(wrong, 460)
    assert both.offset() == 0
    assert store.chunks() == 0
    good = both.patch(0, data[:size], **{"upload-checksum": f"{algorithm} {right}"})
    assert (good.status_code, good.headers["upload-offset"]) == (204, str(size))
    last = base64.b64encode(hashlib.new(algorithm, data[size:]).digest()).decode()
    assert problem(
        both.patch(size, data[size:-1] + bytes([data[-1] ^ 1]), 1, **{"upload-checksum": f"{algorithm} {last}"}), 460
    )
    assert both.offset() == size
    done = both.patch(size, data[size:], 1, **{"upload-checksum": f"{algorithm} {last}"})
    assert done.headers["repr-digest"] == repr_digest(data)
    assert store.bytes_in(store.one()["current"]["file"]) == data


def test_a_digest_field_is_checked_as_well(tus: Tus) -> None:
    tus.create(length=10)
    problem(tus.patch(0, b"hello", **{"content-digest": repr_digest(b"other")}), 400)
    assert tus.offset() == 0
    assert tus.patch(0, b"hello", **{"content-digest": repr_digest(b"hello")}).status_code == 204


def test_a_name_that_is_taken_is_refused_at_creation(tus: Tus, upload: Service) -> None:
    put(upload, "a.bin", b"there")
    assert problem(tus.create(length=10), 409).startswith("Not Unique: ")


def test_a_name_that_is_lost_is_gone(both: Tus, upload: Service, store: Store) -> None:
    """410 to the last PATCH and to every HEAD after it, on every replica; nothing of it is left."""
    both.create(length=CHUNK + 10)
    both.patch(0, b"x" * CHUNK)
    put(upload, "a.bin", b"was quicker")
    assert problem(both.patch(CHUNK, b"x" * 10), 410).startswith("Not Unique: ")
    assert both.head(0).status_code == both.head(1).status_code == 410
    assert problem(both.patch(0, b"x", at=1), 410).startswith("Not Unique: ")
    assert store.chunks() == 1
    assert store.orphans() == []


def test_termination(both: Tus, store: Store) -> None:
    both.create(length=3 * CHUNK)
    both.patch(0, b"x" * 2 * CHUNK)
    assert store.chunks() == 2
    assert both.delete(1).status_code == 204
    assert both.head().status_code == 404
    problem(both.patch(0, b"x"), 404)
    problem(both.delete(), 404)
    assert store.chunks() == 0


def test_giving_up_cuts_who_still_sends(tus: Tus, upload: Service, store: Store) -> None:
    tus.create(length=10 * CHUNK)
    with tus.open_patch(upload, 0, 10 * CHUNK) as sending:
        sending.sendall(os.urandom(2 * CHUNK))
        eventually(lambda: tus.offset() == 2 * CHUNK)
        assert tus.delete().status_code == 204
        assert sending.recv(64).startswith(b"HTTP/1.1 409 ")
    assert (store.one()["uploads"], store.chunks()) == ([], 0)


def test_what_has_ended_is_not_given_up(tus: Tus, store: Store) -> None:
    tus.create(length=3, content=b"abc")
    problem(tus.delete(), 410)
    assert store.one()["current"]["length"] == 3


def test_expiration(start_service: Start, env: dict[str, str], store: Store) -> None:
    """Case 30: 410 after the expiry, reaped or not; the janitor leaves nothing."""
    service = start_service(
        "services.upload", **{**env, "GRIDCAST_UNFINISHED_UPLOAD_TTL": "1.5", "GRIDCAST_GC_INTERVAL": "0.3"}
    )
    tus = Tus(service)
    created = tus.create(length=CHUNK + 10)
    assert created.headers["upload-expires"].endswith(" GMT")
    assert "upload-expires" in tus.patch(0, b"x" * CHUNK).headers
    assert "upload-expires" in tus.head().headers
    eventually(lambda: tus.head().status_code == 410, 5)
    problem(tus.patch(CHUNK, b"x"), 410)
    eventually(lambda: store.media() == [] and store.chunks() == 0, 5)
    assert tus.head().status_code == 410


@pytest.mark.parametrize("path", [NOBODY, "x", "5f0000000000000000000000", "%7B%22$ne%22:1%7D", "a" * 200])
def test_nobody_s_address(upload: Service, path: str) -> None:
    """Case 33: an id is never a query. One that looks old enough may have expired."""
    for method in ("HEAD", "PATCH", "DELETE"):
        headers = {**TUS, **OFFSET_TYPE, "upload-offset": "0"}
        answer = httpx.request(method, f"{upload.url}/file/tus/{path}", headers=headers)
        assert answer.status_code in ({410} if path == NOBODY else {404}), answer.text
    assert "Traceback" not in upload.log


REFUSED: list[tuple[str, dict[str, str], int]] = [
    ("no length", {"upload-metadata": metadata(filename="a")}, 400),
    (
        "both lengths",
        {"upload-length": "1", "upload-defer-length": "1", "upload-metadata": metadata(filename="a")},
        400,
    ),
    ("defer 2", {"upload-defer-length": "2", "upload-metadata": metadata(filename="a")}, 400),
    ("negative", {"upload-length": "-1", "upload-metadata": metadata(filename="a")}, 400),
    ("plus", {"upload-length": "+1", "upload-metadata": metadata(filename="a")}, 400),
    ("huge", {"upload-length": "9" * 30, "upload-metadata": metadata(filename="a")}, 400),
    ("over the limit", {"upload-length": str(2**40), "upload-metadata": metadata(filename="a")}, 413),
    ("no name", {"upload-length": "1"}, 400),
    ("bad name", {"upload-length": "1", "upload-metadata": metadata(filename="../a")}, 400),
    ("bad folder", {"upload-length": "1", "upload-metadata": metadata(filename="a", folder="/x")}, 400),
    ("not base64", {"upload-length": "1", "upload-metadata": "filename !!!"}, 400),
    ("not UTF-8", {"upload-length": "1", "upload-metadata": "filename /w=="}, 400),
    ("key twice", {"upload-length": "1", "upload-metadata": "filename YQ==,filename YQ=="}, 400),
    ("long metadata", {"upload-length": "1", "upload-metadata": metadata(filename="a", x="y" * 5000)}, 400),
    ("bad type", {"upload-length": "1", "upload-metadata": metadata(filename="a", filetype="x")}, 400),
    ("bad concat", {"upload-length": "1", "upload-concat": "whole"}, 400),
    ("no parts", {"upload-concat": "final;", "upload-metadata": metadata(filename="a")}, 400),
    ("final with length", {"upload-concat": f"final;/file/tus/{NOBODY}", "upload-length": "1"}, 400),
    ("unknown part", {"upload-concat": f"final;/file/tus/{NOBODY}", "upload-metadata": metadata(filename="a")}, 400),
]


@pytest.mark.parametrize(("headers", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_creation_that_breaks_the_rules(upload: Service, store: Store, headers: dict[str, str], status: int) -> None:
    answer = httpx.post(f"{upload.url}/file/tus", headers={**TUS, **headers})
    problem(answer, status)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert store.media() == []


def test_a_patch_that_breaks_the_rules(tus: Tus, upload: Service) -> None:
    tus.create(length=10)
    url = upload.url + tus.path
    patch = {**TUS, **OFFSET_TYPE, "upload-offset": "0"}
    for change, status in (
        ({"content-type": "application/octet-stream"}, 415),
        ({"upload-offset": "x"}, 400),
        ({"upload-offset": "-1"}, 400),
        ({"upload-checksum": "md5 AAAA"}, 400),
        ({"upload-checksum": "sha1 AAAA"}, 400),
        ({"tus-resumable": "0.2.2"}, 412),
    ):
        answer = httpx.patch(url, headers={**patch, **change}, content=b"x")
        problem(answer, status)
        assert answer.headers["tus-resumable"] == "1.0.0"
    problem(httpx.patch(url, headers={**TUS, **OFFSET_TYPE}, content=b"x"), 400)
    assert httpx.head(url).status_code == 412
    assert httpx.head(url).headers["tus-version"] == "1.0.0"
    assert tus.offset() == 0


def test_methods_in_a_header(tus: Tus, upload: Service) -> None:
    """Tus 1.0.0, X-HTTP-Method-Override."""
    tus.create(length=3)
    url = upload.url + tus.path
    sent = {**TUS, **OFFSET_TYPE, "upload-offset": "0", "x-http-method-override": "PATCH"}
    assert httpx.post(url, headers=sent, content=b"ab").status_code == 204
    assert httpx.post(url, headers={**TUS, "x-http-method-override": "HEAD"}).headers["upload-offset"] == "2"
    assert httpx.post(url, headers={**TUS, "x-http-method-override": "DELETE"}).status_code == 204
    problem(httpx.post(url, headers=TUS), 405)


def test_concatenation(both: Tus, upload: Service, store: Store) -> None:
    """Parts that end anywhere, written on two replicas, become one file; the parts are gone."""
    sizes = [10, CHUNK, 0, BATCH + 77, 3 * CHUNK - 1]
    parts = [os.urandom(size) for size in sizes]
    paths = []
    for number, data in enumerate(parts):
        assert both.create(None, length=len(data), **{"upload-concat": "partial"}).status_code == 201
        paths.append(both.path)
        if data:
            half = len(data) // 2
            assert both.patch(0, data[:half], number % 2).status_code == 204
            assert both.patch(half, data[half:], (number + 1) % 2).status_code == 204
        seen = both.head()
        assert seen.headers["upload-concat"] == "partial"
        assert seen.headers["upload-offset"] == str(len(data))
    concat = "final;" + " ".join([paths[0], upload.url + paths[1], *paths[2:]])
    done = both.create("whole.bin", length=None, **{"upload-concat": concat})
    assert done.status_code == 201, done.text
    whole = b"".join(parts)
    assert done.headers["repr-digest"] == repr_digest(whole)
    seen = both.head(1)
    assert seen.headers["upload-concat"] == concat
    assert seen.headers["upload-length"] == seen.headers["upload-offset"] == str(len(whole))
    problem(both.patch(0, b"x"), 403)
    document = store.one()
    assert store.bytes_in(document["current"]["file"]) == whole
    assert store.orphans() == []


def test_an_unfinished_part_is_no_part(both: Tus, store: Store) -> None:
    both.create(None, length=10, **{"upload-concat": "partial"})
    part = both.path
    both.patch(0, b"12345")
    concat = {"upload-concat": f"final;{part}", "upload-metadata": metadata(filename="a")}
    problem(httpx.post(both.urls[0] + "/file/tus", headers={**TUS, **concat}), 409)
    both.path = part
    assert both.offset() == 5
    assert both.patch(5, b"67890").status_code == 204
    put_first = both.create("a", length=3, content=b"abc")
    assert put_first.status_code == 201
    problem(httpx.post(both.urls[0] + "/file/tus", headers={**TUS, **concat}), 409)
    both.path = part
    assert both.offset() == 10


@pytest.mark.parametrize(("name", "partial", "status"), [("a.bin", {}, 400), (None, {"upload-concat": "partial"}, 409)])
def test_a_refused_concatenation_stops_nobody(
    both: Tus, upload: Service, name: str | None, partial: dict[str, str], status: int
) -> None:
    """What is no part, or not a whole one, stays with whoever writes it."""
    both.create(name, length=10, **partial)
    with both.open_patch(upload, 0, 10) as writing:
        writing.sendall(b"12345")
        eventually(lambda: both.offset() == 5)
        head = {"upload-concat": f"final;{both.path}", "upload-metadata": metadata(filename="w")}
        for url in both.urls:
            problem(httpx.post(f"{url}/file/tus", headers={**TUS, **head}), status)
        writing.sendall(b"67890")
        assert writing.recv(65536).startswith(b"HTTP/1.1 204 ")
    assert both.offset() == 10


def received(connection: socket.socket) -> bytes:
    """What comes until the end."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


@pytest.mark.parametrize("at", [0, 1])
def test_a_stalled_patch_hides_nothing_and_gives_way(both: Tus, upload: Service, at: int, store: Store) -> None:
    """Cases 27 and 29: HEAD within 5 s shows every byte the service has read; a newer PATCH goes on, the older one is cut."""
    data = os.urandom(3 * CHUNK)
    both.create(length=len(data))
    sent = CHUNK + 1000
    with both.open_patch(upload, 0, len(data)) as stalled:
        stalled.sendall(data[:sent])
        eventually(lambda: both.offset(at) == sent, 5)
        began = time.monotonic()
        assert both.offset(at) == sent
        assert time.monotonic() - began < 5
        done = both.patch(sent, data[sent:], at)
        assert (done.status_code, done.headers["repr-digest"]) == (204, repr_digest(data))
        if at == 0:
            stalled.settimeout(5)
            assert received(stalled).startswith(b"HTTP/1.1 409 ")
        else:
            stalled.sendall(data[sent:])
            assert stalled.recv(65536).startswith(b"HTTP/1.1 409 ")
    assert store.bytes_in(store.one()["current"]["file"]) == data


@pytest.mark.parametrize("at", [0, 1])
def test_a_cut_connection_loses_nothing_that_was_read(both: Tus, upload: Service, store: Store, at: int) -> None:
    data = os.urandom(2 * BATCH + 99)
    both.create(length=len(data))
    offset = 0
    for sent in (10, CHUNK + 1, BATCH + 5, 2 * BATCH):
        with both.open_patch(upload, offset, len(data) - offset) as connection:
            connection.sendall(data[offset:sent])
            # Until it is read: what is still in a socket when it breaks is nobody's.
            eventually(lambda: unread(upload.port, connection) == 0)
        # The server below us gives up what it holds, 64 KiB, when the connection breaks.
        eventually(lambda sent=sent: sent - 65536 <= both.offset(at) <= sent, 5)
        offset = both.offset(at)
    assert both.patch(offset, data[offset:], at).headers["repr-digest"] == repr_digest(data)


def test_two_patches_at_once_make_one_file(both: Tus, store: Store) -> None:
    """Case 27: whoever comes last goes on; the other one is told 409; no byte is mixed."""
    data = os.urandom(4 * BATCH)
    both.create(length=len(data))
    for _ in range(20):
        offset = both.offset()
        if offset == len(data):
            break

        def send(at: int, offset: int = offset) -> int:
            return Tus.patch(both, offset, data[offset : offset + BATCH + 5], at).status_code

        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(send, (0, 1))) <= {204, 409}
    assert both.offset(1) == len(data)
    assert store.one()["current"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert store.orphans() == []


def test_at_the_end_of_the_service_nothing_is_lost(
    start_service: Start, env: dict[str, str], upload: Service, store: Store
) -> None:
    """SIGTERM while a PATCH is open: what was read is durable, and another replica goes on."""
    service = start_service("services.upload", **{**env, "GRIDCAST_SHUTDOWN_TIMEOUT": "1"})
    data = os.urandom(CHUNK + 500)
    tus = Tus(service, upload)
    tus.create(length=len(data))
    with tus.open_patch(service, 0, len(data)) as connection:
        connection.sendall(data[: CHUNK + 7])
        eventually(lambda: unread(service.port, connection) == 0)
        time.sleep(0.2)
        service.stop()
        assert received(connection).startswith(b"HTTP/1.1 503 ")
    assert tus.offset(1) == CHUNK + 7
    assert tus.patch(CHUNK + 7, data[CHUNK + 7 :], 1).headers["repr-digest"] == repr_digest(data)
    assert "Traceback" not in service.log
