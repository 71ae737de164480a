"""What is read is what was written: random ranges over every size, replacement under readers, and two replicas that agree."""

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import httpx
import pytest
import redis

from tests.support.databases import ServerProcess, storage_env
from tests.support.media_library import MediaServices, run_media_services
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE, MIB
from tests.support.waiting import eventually

FILE_SIZES = (
    *(0, 1, 2, 3, 255, 4096, 65_537),
    *(CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE - 1, 2 * CHUNK_SIZE, 2 * CHUNK_SIZE + 1),
    *(15 * CHUNK_SIZE, 16 * CHUNK_SIZE, 16 * CHUNK_SIZE + 1, 17 * CHUNK_SIZE + 3),
    *(5 * MIB + 17, 33 * MIB),
)
LARGEST_SIZE = 256 * MIB


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MediaServices]:
    """A cache that does not hold everything, so that ranges come from both sides."""
    folder = tmp_path_factory.mktemp("exact")
    with run_media_services(
        folder, mongod, redis_server.url, "test_stream_exact", GRIDCAST_BLOCK_CACHE_SIZE=str(32 * MIB)
    ) as lib:
        yield lib


@dataclass
class LocalFile:
    """A file as it lies on the disk."""

    name: str
    size: int
    path: Path

    def part(self, first: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(first)
            return file.read(end - first)


def random_range(rng: random.Random, size: int) -> tuple[str, list[tuple[int, int]]]:
    """A Range field, and what it means: (first, end) of each part, in order; none: the whole file or 416."""

    def one() -> tuple[str, tuple[int, int]]:
        edge = rng.choice([0, CHUNK_SIZE, 16 * CHUNK_SIZE, size, rng.randrange(size + 1)])
        first = min(max(0, edge + rng.randint(-2, 2)), size + 2)
        length = rng.choice([1, 2, 100, 4096, CHUNK_SIZE, CHUNK_SIZE + 1, MIB, rng.randrange(1, 3 * MIB)])
        match rng.randrange(4):
            case 0:
                count = min(length, 4 * MIB)
                return f"-{count}", (max(0, size - count), size)
            case 1 if size - first < 4 * MIB:
                return f"{first}-", (first, size)
            case _:
                return f"{first}-{first + length - 1}", (first, min(size, first + length))

    if rng.randrange(5):
        text, part = one()
        return f"bytes={text}", [part] if part[0] < part[1] else []
    parts, end = [], 0
    for _ in range(rng.randrange(2, 6)):  # apart from each other, so that none is merged with the next
        first = end + 2 + rng.randrange(1 + max(1, size // 3))
        end = first + rng.randrange(1, 3000)
        parts.append((first, end))
    text = ", ".join(f"{first}-{end - 1}" for first, end in parts)
    return f"bytes={text}", [(first, min(end, size)) for first, end in parts if first < size]


@pytest.mark.parametrize(
    ("largest", "rounds"),
    [(0, 600), pytest.param(LARGEST_SIZE, 10_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
)
def test_random_ranges_equal_a_local_file(
    media_services: MediaServices, tmp_path: Path, largest: int, rounds: int
) -> None:
    """P8. The seed is printed with a failure."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    files = []
    for size in (*FILE_SIZES, *([largest] if largest else [])):
        local = LocalFile(f"exact-{rounds}-{size}", size, tmp_path / str(size))
        with local.path.open("wb") as file:
            for done in range(0, size, MIB):
                file.write(rng.randbytes(min(MIB, size - done)))
        media_services.put(local.name, local.path)
        files.append(local)
    bodies = 0
    for number in range(rounds):
        local = rng.choice(files)
        header, parts = random_range(rng, local.size)
        what = f"seed {seed}, round {number}: {header} of {local.size} bytes"
        answer = media_services.get(local.name, {"range": header})
        suffix = header.startswith("bytes=-")
        if not parts:
            assert answer.status_code == (200 if local.size == 0 and suffix else 416), what
            continue
        assert answer.status_code == 206, what
        bodies += len(answer.content)
        if len(parts) == 1:
            ((first, end),) = parts
            assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{local.size}", what
            assert answer.content == local.part(first, end), what
            continue
        message = message_from_bytes(
            f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.content
        )
        said = [part["content-range"] for part in message.get_payload()]  # type: ignore[index]
        assert said == [f"bytes {first}-{end - 1}/{local.size}" for first, end in parts], what
        rest = answer.content
        for first, end in parts:
            head = f"Content-Range: bytes {first}-{end - 1}/{local.size}\r\n\r\n".encode()
            _, found, rest = rest.partition(head)
            assert found, what
            assert rest[: end - first] == local.part(first, end), what
            rest = rest[end - first :]
    print(f"{rounds} random ranges over {len(files)} sizes, {bodies / MIB:.0f} MiB: all equal")


def put_file(lib: MediaServices, name: str, data: bytes) -> httpx.Response:
    """Replace a file, or make it."""
    return lib.http_client.put(f"{lib.upload.url}/file/stream", params={"filename": name}, content=data)


def delete_file(lib: MediaServices, name: str) -> httpx.Response:
    return lib.http_client.delete(f"{lib.upload.url}/file/stream", params={"filename": name})


def test_replacement_never_mixes_with_an_active_download(media_services: MediaServices) -> None:
    """Case 51: a reader that began with the old version ends with it, and later readers get the new one."""
    old, new = b"o" * (64 * MIB), b"n" * (64 * MIB)
    assert put_file(media_services, "swap.bin", old).status_code == 201
    etag = media_services.get("swap.bin", method="HEAD").headers["etag"]
    with httpx.stream("GET", media_services.url("swap.bin")) as answer:
        pieces = answer.iter_raw(MIB)
        first = next(pieces)
        assert put_file(media_services, "swap.bin", new).status_code == 200
        assert media_services.get("swap.bin", {"range": "bytes=0-9", "cache-control": "no-cache"}).content == b"n" * 10
        rest = b"".join(pieces)
    assert first + rest == old
    assert media_services.get("swap.bin", {"range": "bytes=5-9", "if-range": etag}).status_code == 200


def test_deleted_file_is_read_to_its_end_by_active_readers(media_services: MediaServices) -> None:
    data = os.urandom(MIB) * 40
    assert put_file(media_services, "gone.bin", data).status_code == 201
    with httpx.stream("GET", media_services.url("gone.bin")) as answer:
        pieces = answer.iter_raw(MIB)
        first = next(pieces)
        assert delete_file(media_services, "gone.bin").status_code == 204
        assert media_services.get("gone.bin", {"cache-control": "no-cache"}).status_code == 404
        assert first + b"".join(pieces) == data


def test_chunks_deleted_during_a_download_abort_it(media_services: MediaServices) -> None:
    """Case 51 when the grace is over: what came is the beginning of the old version, and does not look like all of it."""
    old, new = os.urandom(MIB) * 64, os.urandom(MIB) * 64
    assert put_file(media_services, "grace.bin", old).status_code == 201
    document = media_services.inspector.find_document("grace.bin")
    assert document is not None
    with httpx.stream("GET", media_services.url("grace.bin")) as answer:
        pieces = answer.iter_raw(MIB)
        got = next(pieces)
        assert put_file(media_services, "grace.bin", new).status_code == 200
        media_services.inspector.delete_blocks(document["current"]["file"])
        rest: list[bytes] = []
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            rest.extend(pieces)
    got += b"".join(rest)
    assert MIB <= len(got) < len(old)
    assert old.startswith(got)
    assert media_services.get("grace.bin").content == new


def test_deleted_chunks_of_a_cached_version_do_not_fail_new_readers(media_services: MediaServices) -> None:
    """Metadata cached for a second may name a version whose chunks have been deleted: then the store is queried again."""
    identifier = media_services.put("moved.bin", b"old" * 1000)
    file = media_services.current_file_id(identifier)
    media_services.put("newer.bin", b"new" * 1000)
    assert media_services.get("moved.bin", method="HEAD").status_code == 200  # remembered, and no block read
    newer = media_services.inspector.find_document("newer.bin")
    assert newer is not None
    media_services.inspector.set_current("moved.bin", newer["current"])
    media_services.inspector.delete_blocks(file)
    answer = media_services.get("moved.bin")
    assert (answer.status_code, answer.content) == (200, b"new" * 1000)


@pytest.fixture
def replicas(
    media_services: MediaServices, start_service: StartService, mongod: ServerProcess, redis_server: ServerProcess
) -> tuple[ServiceProcess, ServiceProcess]:
    """Two that share everything but their memory."""
    env = storage_env(mongod, redis_server.url, "test_stream_exact")
    return start_service("services.stream", **env), start_service("services.stream", **env)


@pytest.mark.parametrize("rounds", [15, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_no_replica_serves_a_replaced_file(
    media_services: MediaServices, replicas: tuple[ServiceProcess, ServiceProcess], rounds: int
) -> None:
    """Read-after-write: not for longer than a second, and not at all with no-cache. Readers keep both memories warm."""
    name = f"raw-{rounds}.txt"
    assert put_file(media_services, name, b"start").status_code == 201
    urls = [media_services.url(name, service=replica) for replica in replicas]
    stop = threading.Event()

    def keep_warm(url: str) -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                client.get(url)

    readers = [threading.Thread(target=keep_warm, args=(url,)) for url in urls]
    for reader in readers:
        reader.start()
    stale = 0
    longest = 0.0
    try:
        for number in range(rounds):
            wanted = (404, b"") if number % 5 == 4 else (200, b"%d" % number)
            answer = (
                delete_file(media_services, name) if wanted[0] == 404 else put_file(media_services, name, wanted[1])
            )
            acknowledged = time.monotonic()
            assert answer.status_code in {200, 201, 204}

            def seen(url: str, **headers: str) -> tuple[int, bytes]:
                found = media_services.http_client.get(url, headers=headers)
                return (found.status_code, b"" if found.status_code == 404 else found.content)

            # Plainly first: what reads through makes the next plain answer a new one.
            plain = [seen(url) for url in urls]
            stale += sum(answer != wanted for answer in plain)
            for url in urls:
                assert seen(url, **{"cache-control": "no-cache"}) == wanted
            for url in urls:
                while seen(url) != wanted:
                    stale += 1
                    longest = max(longest, time.monotonic() - acknowledged)
                    assert longest < 1.0
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    print(
        f"{rounds} changes, 2 replicas: {stale} stale answers, the latest {longest * 1000:.0f} ms after the acknowledgement"
    )


def test_lost_invalidation_delays_a_change_by_one_second(
    media_services: MediaServices, replicas: tuple[ServiceProcess, ServiceProcess], redis_server: ServerProcess
) -> None:
    """An unpublished change is visible within a second; a published one immediately."""
    identifier, other = media_services.put("quiet.txt", b"1"), media_services.put("quiet-2.txt", b"2")
    url = media_services.url("quiet.txt", service=replicas[0])
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        eventually(lambda: dict(client.pubsub_numsub("gridcast:invalidate")).popitem()[1] >= 2)
        files = {str(one["_id"]): one for one in media_services.inspector.list_documents()}
        newer, older = files[other], files[identifier]
        assert media_services.http_client.get(url).content == b"1"
        media_services.inspector.set_current("quiet.txt", newer["current"])
        changed = time.monotonic()
        assert media_services.http_client.get(url).content == b"1", "it is remembered"
        eventually(lambda: media_services.http_client.get(url).content == b"2", 1.5)
        assert time.monotonic() - changed < 1.3
        media_services.inspector.set_current("quiet.txt", older["current"])
        client.publish("gridcast:invalidate", json.dumps(["", "quiet.txt"]))
        eventually(lambda: media_services.http_client.get(url).content == b"1", 0.3)
