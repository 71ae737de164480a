"""Media facts on every way in, over requests and replicas, and where they are shown; of files stored without them, on demand."""

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.common.containers.scanner import FactsScanner
from tests.support.container_samples import ContainerSamples
from tests.support.databases import ServerProcess, storage_env
from tests.support.media_library import MediaServices
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.upload_client import TusUpload, form_body, form_part, post_form, put_file, tus_metadata

FRESH = {"cache-control": "no-cache"}
VIDEO = {
    "kind": "video",
    "duration": 1.5,
    "width": 96,
    "height": 64,
    "codecs": ["avc1.42c00a", "mp4a.40.2"],
    "rotation": 0,
}


@pytest.fixture(scope="module")
def second_replica(
    media_services: MediaServices,
    mongod: ServerProcess,
    redis_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServiceProcess]:
    """Another upload service on the same database."""
    env = storage_env(mongod, redis_server.url, media_services.db.name)
    with run_service("services.upload", tmp_path_factory.mktemp("second"), env) as service:
        yield service


def info(services: MediaServices, filename: str) -> dict[str, Any]:
    answer = httpx.get(f"{services.stream.url}/file/info", params={"filename": filename}, headers=FRESH)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def listed(services: MediaServices, filename: str) -> dict[str, Any]:
    (found,) = httpx.get(f"{services.stream.url}/file", params={"q": filename, "folder": ""}).json()["files"]
    assert isinstance(found, dict)
    return found


def enlarged(samples: ContainerSamples, size: int) -> bytes:
    """Return an MP4 as cameras write it: `moov` is at the end, behind a `free` box of `size` bytes."""
    data = samples.read("index-last.mp4")
    return data[:32] + size.to_bytes(4, "big") + b"free" + bytes(size - 8) + data[32:]


def expected_facts(samples: ContainerSamples) -> dict[str, Any]:
    return {**VIDEO, "tags": {"title": "Grüße, world", "artist": "The Testers", "album": "Samples"}}


def upload_as_form(services: MediaServices, name: str, data: bytes) -> None:
    assert post_form(services.upload, form_body(form_part("file", data, name))).status_code == 201


def upload_as_body(services: MediaServices, name: str, data: bytes) -> None:
    assert put_file(services.upload, name, data).status_code == 201


def upload_at_creation(services: MediaServices, name: str, data: bytes) -> None:
    assert TusUpload(services.upload).create(name, len(data), data).status_code == 201


def upload_in_parts(services: MediaServices, name: str, data: bytes) -> None:
    upload, paths = TusUpload(services.upload), []
    for part in (data[: len(data) // 3], data[len(data) // 3 :]):
        assert upload.create(None, len(part), part, headers={"upload-concat": "partial"}).status_code == 201
        paths.append(upload.path)
    fields = {"upload-concat": f"final;{' '.join(paths)}", "upload-metadata": tus_metadata(filename=name)}
    assert upload.create(None, length=None, headers=fields).status_code == 201


WAYS_IN = {"form": upload_as_form, "put": upload_as_body, "tus": upload_at_creation, "concatenation": upload_in_parts}


@pytest.mark.parametrize("size", [5_000, CHUNK_SIZE - 26_110, 9 * CHUNK_SIZE])
@pytest.mark.parametrize("way", WAYS_IN)
def test_facts_are_stored_on_each_way_in(
    media_services: MediaServices, container_samples: ContainerSamples, way: str, size: int
) -> None:
    name = f"{way}-{size}.mp4"
    WAYS_IN[way](media_services, name, enlarged(container_samples, size))
    expected = expected_facts(container_samples)
    assert listed(media_services, name)["media_facts"] == expected
    assert info(media_services, name)["media_facts"] == expected


def test_a_put_shows_them_and_a_replacement_has_its_own(
    media_services: MediaServices, container_samples: ContainerSamples
) -> None:
    first = put_file(media_services.upload, "replaced.bin", container_samples.read("vorbis.ogg")).json()
    assert (first["media_facts"]["kind"], first["media_facts"]["codecs"]) == ("audio", ["vorbis"])
    second = put_file(media_services.upload, "replaced.bin", b"text").json()
    assert second["media_facts"] is None
    document = media_services.db["media"].find_one({"filename": "replaced.bin"})
    assert document is not None
    assert document["current"]["media_facts"] == "null"


@pytest.mark.parametrize("name", ["index-first.mp4", "index-last.mp4", "vp9.webm", "opus.opus", "vbr.mp3", "pcm.wav"])
def test_two_requests_on_two_replicas_split_anywhere(
    media_services: MediaServices, second_replica: ServiceProcess, container_samples: ContainerSamples, name: str
) -> None:
    data = container_samples.read(name)
    whole = FactsScanner()
    whole.feed(data)
    facts = whole.finish()
    assert facts is not None
    rng = random.Random(name)
    for split in (1, 8, 40, *(rng.randrange(len(data)) for _ in range(3)), len(data) - 1):
        stored_name = f"split-{split}-{name}"
        upload = TusUpload(media_services.upload, second_replica)
        assert upload.create(stored_name, len(data)).status_code == 201
        assert upload.patch(0, data[:split]).status_code == 204
        assert upload.patch(split, data[split:], replica=1).status_code == 204
        found = listed(media_services, stored_name)["media_facts"]
        assert (found["duration"], found["codecs"]) == (facts.duration, list(facts.codecs)), split


@pytest.mark.parametrize("replica", [0, 1])
@pytest.mark.parametrize("split", [CHUNK_SIZE - 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 5, 9 * CHUNK_SIZE + 27_000])
def test_a_large_file_in_two_requests(
    media_services: MediaServices,
    second_replica: ServiceProcess,
    container_samples: ContainerSamples,
    split: int,
    replica: int,
) -> None:
    """On one replica the state is in its memory; another one reads the stored blocks again."""
    data = enlarged(container_samples, 9 * CHUNK_SIZE + 3000)
    name = f"large-{split}-{replica}.mp4"
    upload = TusUpload(media_services.upload, second_replica)
    assert upload.create(name, len(data)).status_code == 201
    assert upload.patch(0, data[:split]).status_code == 204
    assert upload.patch(split, data[split:], replica=replica).status_code == 204
    assert listed(media_services, name)["media_facts"] == expected_facts(container_samples)


@pytest.mark.parametrize("size", [5_000, 2 * CHUNK_SIZE, 9 * CHUNK_SIZE + 250_000])
def test_files_stored_without_facts_are_read_on_demand(
    media_services: MediaServices, container_samples: ContainerSamples, size: int
) -> None:
    name = f"older-{size}.mp4"
    upload_as_body(media_services, name, enlarged(container_samples, size))
    document = {"filename": name}
    media_services.db["media"].update_one(document, {"$unset": {"current.media_facts": ""}})
    assert listed(media_services, name)["media_facts"] is None
    assert info(media_services, name)["media_facts"] == expected_facts(container_samples)
    # Read once: the blocks may be gone after that.
    stored = media_services.db["media"].find_one(document)
    assert stored is not None
    media_services.db["fs.chunks"].delete_many({"files_id": stored["current"]["file"]})
    assert info(media_services, name)["media_facts"] == expected_facts(container_samples)


def test_facts_that_cannot_be_read_are_null(media_services: MediaServices, container_samples: ContainerSamples) -> None:
    upload_as_body(media_services, "corrupt.mp4", container_samples.read("index-first.mp4"))
    stored = media_services.db["media"].find_one_and_update(
        {"filename": "corrupt.mp4"}, {"$unset": {"current.media_facts": ""}}
    )
    assert stored is not None
    media_services.db["fs.chunks"].delete_many({"files_id": stored["current"]["file"]})
    assert info(media_services, "corrupt.mp4")["media_facts"] is None
