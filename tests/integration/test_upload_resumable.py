"""A resumable upload over a store that becomes unavailable, or shows what is not durable yet."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from services.common.asgi import Message
from services.common.bus.publisher import EventPublisher
from services.common.errors import Conflict, Gone, NotFound, ServiceUnavailable
from services.common.media import MediaName, sha256_etag
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import AcquiredUpload, FinishedUpload, InProgressUpload, NewUpload, UploadHandle
from services.common.uploads.body import UploadBody
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor
from services.common.uploads.policy import UploadPolicy
from services.upload.playback import PlaybackReporter
from services.upload.progress import NullProgress
from services.upload.tus.patch import PatchRequest
from services.upload.tus.resumable_uploads import ResumableUploads
from services.upload.writer.upload_writer import BATCH_BLOCKS
from tests.support.databases import ServerProcess
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import StoreUnderTest
from tests.support.store_inspectors import MongoInspector, open_inspector

pytestmark = pytest.mark.anyio
NAME = MediaName("", "n")


class UnavailableStore(StoreUnderTest):
    """A store that becomes unavailable when the upload has just begun."""

    async def get_info(self, address: str) -> InProgressUpload | FinishedUpload | None:
        raise ServiceUnavailable(address)


class UndurableStore(StoreUnderTest):
    """A store in which a commit was made and is not durable yet: a kill undoes it."""

    async def get_info(self, address: str) -> InProgressUpload | FinishedUpload | None:
        return FinishedUpload("stored", NAME, 5, sha256_etag("00" * 32), "00" * 32, {}, datetime.now(UTC))


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


async def empty_body() -> Message:
    return {"type": "http.request", "body": b""}


def make_resumable_uploads(store: StoreUnderTest) -> ResumableUploads:
    disk_space = DiskSpaceMonitor(0, lambda _: None)
    return ResumableUploads(
        store,
        UploadPolicy(30 * CHUNK_SIZE),
        disk_space,
        lambda *_: NullProgress(),
        CleanupRunner(),
        60.0,
        PlaybackReporter(cast(EventPublisher, None)),  # no upload here has a socket
    )


async def test_store_that_becomes_unavailable_during_an_upload(store_backend: Any, inspector: MongoInspector) -> None:
    before = asyncio.all_tasks()
    away = make_resumable_uploads(UnavailableStore(store_backend, StoreTimings(lease_ttl=0.3)))
    with pytest.raises(ServiceUnavailable):
        await away.create(NAME, 5, {}, "", UploadBody(empty_body, 0, 30.0), PatchRequest(0, None, 0, ()))
    deadline = time.monotonic() + 5
    while inspector.list_documents() or asyncio.all_tasks() != before:
        assert time.monotonic() < deadline, "it is held, and its lease is renewed for nobody"
        await asyncio.sleep(0.02)


async def test_non_durable_commit_is_not_acknowledged(store_backend: Any) -> None:
    """The client would discard its copy, and after a kill the bytes would be requested again."""
    store = UndurableStore(store_backend)
    upload = await store.create_upload(NAME, NewUpload(5, 60))
    with pytest.raises(Conflict) as told:
        await make_resumable_uploads(store).patch(
            upload.upload_id, UploadBody(empty_body, 0, 30.0), PatchRequest(5, None, 0, ())
        )
    assert told.value.headers["upload-offset"] == "0"
    media_id = upload.upload_id.partition("-")[0]
    assert await store.acquire(f"{media_id}-{media_id}") is None


class InterruptedStore(StoreUnderTest):
    """A store that fails the first time stored bytes are rehashed."""

    interrupted = False

    async def iter_blocks(self, upload: UploadHandle, blocks: int) -> AsyncGenerator[bytes, None]:
        async for block in super().iter_blocks(upload, blocks):
            yield block
            if not self.interrupted:
                self.interrupted = True
                raise LookupError("what no layer below translates")


class TakenOverStore(StoreUnderTest):
    """A store in which another writer acquires and terminates the upload, just before its bytes are rehashed."""

    backend: Any = None

    async def iter_blocks(self, upload: UploadHandle, blocks: int) -> AsyncGenerator[bytes, None]:
        await make_resumable_uploads(StoreUnderTest(self.backend)).terminate(upload.upload_id)
        async for block in super().iter_blocks(upload, blocks):
            yield block


def make_body(data: bytes) -> UploadBody:
    pieces: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return pieces.pop()

    return UploadBody(receive, 0, 30.0)


async def create_unfinished_upload(store_backend: Any, data: bytes) -> str:
    """Two blocks of it are durable; it is resumed in another process."""
    blocks: Sequence[bytes] = (data[:CHUNK_SIZE], data[CHUNK_SIZE : 2 * CHUNK_SIZE])
    store = StoreUnderTest(store_backend)
    upload = await store.create_upload(NAME, NewUpload(len(data), 60))
    await store.write_blocks(upload, 0, blocks)
    await store.set_offset(upload, 2 * CHUNK_SIZE, b"", len(data), keep_lease=False)
    return upload.upload_id


async def test_hash_of_a_prefix_is_never_used_for_the_whole_file(store_backend: Any, inspector: MongoInspector) -> None:
    data = os.urandom(2 * CHUNK_SIZE + 7)
    address = await create_unfinished_upload(store_backend, data)
    flow = make_resumable_uploads(InterruptedStore(store_backend))
    patch = PatchRequest(2 * CHUNK_SIZE, None, 7, ())
    with pytest.raises(LookupError):
        await flow.patch(address, make_body(data[2 * CHUNK_SIZE :]), patch)
    received = await flow.patch(address, make_body(data[2 * CHUNK_SIZE :]), patch)
    assert received.sha256 == hashlib.sha256(data).hexdigest() == inspector.only_document()["current"]["sha256"]


async def test_upload_with_corrupt_stored_bytes_fails(store_backend: Any, inspector: MongoInspector) -> None:
    data = os.urandom(2 * CHUNK_SIZE + 7)
    address = await create_unfinished_upload(store_backend, data)
    inspector.delete_blocks(inspector.only_document()["uploads"][0]["file"], 1)
    flow = make_resumable_uploads(StoreUnderTest(store_backend))
    with pytest.raises(Gone, match="corrupt"):
        await flow.patch(address, make_body(data[2 * CHUNK_SIZE :]), PatchRequest(2 * CHUNK_SIZE, None, 7, ()))
    with pytest.raises(NotFound):
        await flow.get_durable_info(address)
    assert inspector.count_chunks() == 0


async def test_upload_terminated_during_its_rehash(store_backend: Any) -> None:
    """The caller that terminated it has deleted its chunks; that is no corruption."""
    data = os.urandom(2 * CHUNK_SIZE + 7)
    address = await create_unfinished_upload(store_backend, data)
    store = TakenOverStore(store_backend)
    store.backend = store_backend
    with pytest.raises(Conflict):
        await make_resumable_uploads(store).patch(
            address, make_body(data[2 * CHUNK_SIZE :]), PatchRequest(2 * CHUNK_SIZE, None, 7, ())
        )


class CountingStore(StoreUnderTest):
    """A store that lists the calls that come before the bytes of a request are written."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[str] = []

    async def get_info(self, address: str) -> InProgressUpload | FinishedUpload | None:
        self.calls.append("get_info")
        return await super().get_info(address)

    async def acquire(self, upload_id: str, fencing_token: int | None = None) -> AcquiredUpload | FinishedUpload | None:
        self.calls.append("acquire")
        return await super().acquire(upload_id, fencing_token)

    async def set_offset(self, upload: UploadHandle, *arguments: Any, **options: Any) -> datetime:
        self.calls.append("set_offset")
        return await super().set_offset(upload, *arguments, **options)


BATCH = BATCH_BLOCKS * CHUNK_SIZE


async def create_in_parts(flow: ResumableUploads, length: int, data: bytes = b"") -> str:
    patch = PatchRequest(0, None, len(data), ())
    address, _ = await flow.create(NAME, length, {}, "", make_body(data), patch)
    return address


async def test_a_part_of_one_batch_sets_its_offset_once(store_backend: Any) -> None:
    store = CountingStore(store_backend)
    await create_in_parts(make_resumable_uploads(store), 2 * BATCH, bytes(BATCH))
    assert store.calls.count("set_offset") == 1


async def test_parts_that_follow_one_another_acquire_the_upload_once(
    store_backend: Any, inspector: MongoInspector
) -> None:
    store = CountingStore(store_backend)
    flow = make_resumable_uploads(store)
    data = os.urandom(3 * BATCH)
    address = await create_in_parts(flow, len(data), data[:BATCH])
    store.calls.clear()
    first = await flow.patch(address, make_body(data[BATCH : 2 * BATCH]), PatchRequest(BATCH, None, BATCH, ()))
    assert (first.offset, store.calls) == (2 * BATCH, ["set_offset", "set_offset"])  # the lease, and the offset
    last = await flow.patch(address, make_body(data[2 * BATCH :]), PatchRequest(2 * BATCH, None, BATCH, ()))
    assert not {"acquire", "get_info"} & set(store.calls)
    assert last.sha256 == hashlib.sha256(data).hexdigest() == inspector.only_document()["current"]["sha256"]


async def test_part_behind_the_writer_of_another_process_is_refused_with_the_offset(
    store_backend: Any, inspector: MongoInspector
) -> None:
    """The bytes of the process that has acquired the upload stay as they are."""
    here, there = (make_resumable_uploads(StoreUnderTest(store_backend)) for _ in range(2))
    data = os.urandom(3 * BATCH)
    address = await create_in_parts(here, len(data), data[:BATCH])
    await there.patch(address, make_body(data[BATCH : 2 * BATCH]), PatchRequest(BATCH, None, BATCH, ()))
    with pytest.raises(Conflict) as told:
        await here.patch(address, make_body(os.urandom(BATCH)), PatchRequest(BATCH, None, BATCH, ()))
    assert told.value.headers["upload-offset"] == str(2 * BATCH)
    last = await here.patch(address, make_body(data[2 * BATCH :]), PatchRequest(2 * BATCH, None, BATCH, ()))
    assert last.sha256 == hashlib.sha256(data).hexdigest() == inspector.only_document()["current"]["sha256"]


async def test_part_of_an_upload_that_another_process_has_terminated_is_not_found(store_backend: Any) -> None:
    here, there = (make_resumable_uploads(StoreUnderTest(store_backend)) for _ in range(2))
    address = await create_in_parts(here, 3 * BATCH, bytes(BATCH))
    await there.terminate(address)
    with pytest.raises(NotFound):
        await here.patch(address, make_body(bytes(BATCH)), PatchRequest(BATCH, None, BATCH, ()))


async def test_offset_is_not_told_before_the_bytes_of_a_following_part_are_durable(store_backend: Any) -> None:
    """A client whose request was cut would send them again."""
    flow = make_resumable_uploads(StoreUnderTest(store_backend))
    address = await create_in_parts(flow, 3 * BATCH, bytes(BATCH))
    received, ended = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        if not received.is_set():
            received.set()
            return {"type": "http.request", "body": bytes(CHUNK_SIZE), "more_body": True}
        await ended.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    patch = PatchRequest(BATCH, None, None, ())
    writing = asyncio.create_task(flow.patch(address, UploadBody(receive, 0, 30.0), patch))
    await received.wait()
    state = await flow.get_durable_info(address)
    assert isinstance(state, InProgressUpload)
    assert state.offset == BATCH + CHUNK_SIZE
    ended.set()
    assert (await writing).offset == BATCH + CHUNK_SIZE
