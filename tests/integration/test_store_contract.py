"""The contract of `UploadStore`, `MediaReader` and `GarbageCollector`, on a real mongod with either driver."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import bson
import pytest
from bson import ObjectId

from services.common.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Gone,
    PreconditionFailed,
    ServiceUnavailable,
    TooManyRequests,
)
from services.common.media import MediaName, sha256_etag
from services.common.store.errors import CorruptFile
from services.common.store.gridfs import admission, commit, document_updates, documents, indexes, outbox_updates
from services.common.store.gridfs.chunks import INSERT_RETRY_SECONDS, ChunkStore
from services.common.store.gridfs.commit import Committer
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.media_reader import GridFSMediaReader
from services.common.store.gridfs.mongo import open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.media_reader import ListQuery, PageKey
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    MUST_NOT_EXIST,
    NO_PRECONDITIONS,
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    Preconditions,
    StoredFile,
    UploadHandle,
)
from tests.support.databases import ServerProcess
from tests.support.sizes import CHUNK_SIZE
from tests.support.upload_client import MongoInspector, open_inspector

pytestmark = pytest.mark.anyio
NAME = MediaName("f", "n")
TIMINGS = StoreTimings(lease_ttl=0.4, tombstone_ttl=0.3, second_purge_after=1.2, outbox_retry_after=0)


class StoreAdapters:
    """A store and its garbage collector, as two replicas would have them."""

    def __init__(self, mongo: Any) -> None:
        self.mongo = mongo
        self.store = GridFSUploadStore(mongo, TIMINGS)
        self.keeper = GridFSGarbageCollector(mongo, TIMINGS)
        self.reader = GridFSMediaReader(mongo)

    async def collect_once(self) -> None:
        async for media in self.keeper.list_due():
            await self.keeper.collect(media)

    async def collect_until_done(self, inspector: MongoInspector) -> None:
        """Run the collector until nothing is due."""
        for _ in range(100):
            await self.collect_once()
            if all(not document["doomed"] and not document["uploads"] for document in inspector.list_documents()):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"never settled: {inspector.list_documents()}")

    async def store_file(
        self, data: bytes, name: MediaName = NAME, expected: Preconditions = NO_PRECONDITIONS
    ) -> UploadHandle:
        upload = await self.store.create_upload(name, NewUpload(), expected)
        blocks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
        if blocks:
            await self.store.write_blocks(upload, 0, blocks)
        await self.store.commit(upload, finished_upload(data), expected)
        return upload


def finished_upload(data: bytes) -> StoredFile:
    return StoredFile(len(data), "text/plain", hashlib.sha256(data).hexdigest())


def sha256_is(data: bytes) -> Preconditions:
    return Preconditions(etag_in=frozenset({sha256_etag(hashlib.sha256(data).hexdigest())}))


@pytest.fixture(params=["motor", "pymongo"])
async def adapters(
    request: pytest.FixtureRequest, mongod: ServerProcess, database_name: str
) -> AsyncIterator[StoreAdapters]:
    mongo = open_mongo_database(mongod.url, database_name, request.param)
    both = StoreAdapters(mongo)
    await both.store.ensure_schema()
    yield both
    await mongo.aclose()


@pytest.fixture
def inspector(mongod: ServerProcess, database_name: str) -> Iterator[MongoInspector]:
    with open_inspector(mongod.url, database_name) as store:
        yield store


async def test_file_is_visible_only_after_its_commit(adapters: StoreAdapters) -> None:
    data = os.urandom(CHUNK_SIZE + 5)
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [data[:CHUNK_SIZE]])
    await adapters.store.write_blocks(upload, 1, [data[CHUNK_SIZE:]])
    assert await adapters.reader.find(NAME) is None
    announcement = await adapters.store.commit(upload, finished_upload(data))
    assert announcement.type == "file.created"
    info = await adapters.reader.find(NAME)
    assert info == announcement.info
    assert info is not None
    assert b"".join(await adapters.reader.read_blocks(info, 0, 1)) == data


async def test_metadata_belongs_to_the_version(adapters: StoreAdapters) -> None:
    """It is stored as text: its keys may be operators or field paths of the database."""
    text = '{"$set":{"a.b":[1,null]},"$$NOW":"","":"\\u0000"}'
    for metadata_json, event_type in ((text, "file.created"), ("{}", "file.replaced"), ('{"a":"b"}', "file.replaced")):
        upload = await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
        stored = replace(finished_upload(b""), metadata_json=metadata_json)
        event = await adapters.store.commit(upload, stored, NO_PRECONDITIONS)
        assert (event.type, event.info.metadata_json) == (event_type, metadata_json)
        assert await adapters.reader.find(NAME) == event.info
        assert (await adapters.reader.list_files(ListQuery())).files == [event.info]
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert deleted.info.metadata_json == '{"a":"b"}'
    unpublished = await adapters.keeper.list_unpublished(deleted.info.id)
    assert [event.info.metadata_json for event in unpublished] == [text, "{}", '{"a":"b"}', '{"a":"b"}']


async def test_prepare_is_idempotent(adapters: StoreAdapters) -> None:
    await adapters.store.ensure_schema()
    await adapters.store.check_health()
    free = await adapters.store.get_free_bytes()
    assert free is None or free > 0


async def test_the_name_belongs_to_the_first_commit(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    first, second = [await adapters.store.create_upload(NAME, NewUpload()) for _ in range(2)]
    await adapters.store.commit(second, finished_upload(b""))
    with pytest.raises(AlreadyExists):
        await adapters.store.commit(first, finished_upload(b""))
    with pytest.raises(AlreadyExists):
        await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.abort(first)
    assert inspector.only_document()["uploads"] == []


async def test_every_find_and_update_uses_the_shard_key(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """A mongos before 7.1 rejects it otherwise, also where `_id` is given. The profiler has the queries as the server got them."""
    await adapters.mongo.database.command("profile", 2)
    for name in (NAME, None):
        upload = await adapters.store.create_upload(name, NewUpload(ttl=60))
        await adapters.store.get_durable_info(upload.upload_id)
        taken = await adapters.store.acquire(upload.upload_id)
        assert isinstance(taken, tuple)
        upload = taken[0]
        await adapters.store.write_blocks(upload, 0, [b"x"])
        await adapters.store.set_offset(upload, 0, b"x", 1, keep_lease=True)
        if name is None:
            upload = await adapters.store.assign_name(upload, MediaName("g", "late"))
        await adapters.store.commit(upload, finished_upload(b"x"))
    await adapters.store.delete(NAME)
    # What is done where an answer was lost.
    key = documents.upload_key(upload)
    place = documents.document_filter(key.media_id, upload.name, key.record_id)
    await adapters.store._committer._read_durable(place, key.record_id)
    await adapters.mongo.database.command("profile", 0)
    asked = list(inspector.db["system.profile"].find({"command.findAndModify": "media"}))
    assert len(asked) >= 2 * 5 + 3
    assert [one for one in asked if not {"folder", "filename"} <= one["command"]["query"].keys()] == []


async def test_one_of_many_concurrent_commits_wins(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    async def race(number: int) -> str:
        try:
            await adapters.store_file(bytes([number]) * 9, expected=MUST_NOT_EXIST)
        except AlreadyExists:
            return "lost"
        return "won"

    results = await asyncio.gather(*(race(number) for number in range(30)))
    assert sorted(results) == ["lost"] * 29 + ["won"]
    assert len(inspector.list_documents()) == 1


async def test_replacement_is_atomic_and_old_chunks_stay_for_the_tombstone_ttl(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    await adapters.store_file(b"one")
    old = await adapters.reader.find(NAME)
    upload = await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    await adapters.store.write_blocks(upload, 0, [b"second"])
    announcement = await adapters.store.commit(upload, finished_upload(b"second"), NO_PRECONDITIONS)
    new = await adapters.reader.find(NAME)
    assert announcement.type == "file.replaced"
    assert old is not None
    assert new is not None
    assert (old.id, new.length) == (new.id, 6)
    assert await adapters.reader.read_blocks(old, 0, 0) == [b"one"]
    fields = {"file", "length", "content_type", "sha256", "etag", "uploaded_at"}
    assert set(inspector.only_document()["current"]) == fields
    await adapters.collect_until_done(inspector)
    with pytest.raises(CorruptFile):
        await adapters.reader.read_blocks(old, 0, 0)
    assert inspector.count_chunks() == 1
    assert inspector.db["fs.files"].count_documents({}) == 1


async def test_preconditions_are_checked_at_the_commit(adapters: StoreAdapters) -> None:
    """Early where possible, and again in the commit itself."""
    await adapters.store_file(b"one")
    for wrong in (
        sha256_is(b"x"),
        Preconditions(etag_not_in=frozenset({sha256_etag(hashlib.sha256(b"one").hexdigest())})),
    ):
        with pytest.raises(PreconditionFailed):
            await adapters.store.create_upload(NAME, NewUpload(), wrong)
    with pytest.raises(PreconditionFailed):
        await adapters.store.create_upload(MediaName("", "new"), NewUpload(), Preconditions(must_exist=True))
    upload = await adapters.store.create_upload(NAME, NewUpload(), sha256_is(b"one"))
    await adapters.store_file(b"two")
    with pytest.raises(PreconditionFailed):
        await adapters.store.commit(upload, finished_upload(b""), sha256_is(b"one"))
    await adapters.store.abort(upload)
    await adapters.store_file(b"three", expected=sha256_is(b"two"))


async def test_a_file_without_a_sha256_has_an_entity_tag_of_its_own(adapters: StoreAdapters) -> None:
    """It is present, listed, compared by its tag, replaced and deleted like every other."""
    upload = await adapters.store.create_upload(NAME, NewUpload(ttl=60))
    await adapters.store.write_blocks(upload, 0, [b"live"])
    event = await adapters.store.commit(upload, StoredFile(4, "video/mp4", None, '"live-1"'))
    assert (event.info.sha256, event.info.etag, event.info.to_public_dict()["sha256"]) == (None, '"live-1"', None)
    finished = await adapters.store.get_durable_info(upload.upload_id)
    assert isinstance(finished, FinishedUpload)
    assert (finished.etag, finished.sha256) == ('"live-1"', None)
    assert await adapters.reader.find(NAME) == event.info
    assert (await adapters.reader.list_files(ListQuery())).files == [event.info]
    with pytest.raises(AlreadyExists):
        await adapters.store.create_upload(NAME, NewUpload())
    for wrong in (Preconditions(etag_in=frozenset({'"live-2"'})), Preconditions(etag_not_in=frozenset({'"live-1"'}))):
        with pytest.raises(PreconditionFailed):
            await adapters.store.delete(NAME, wrong)
    await adapters.store_file(b"two", expected=Preconditions(must_exist=True, etag_in=frozenset({'"live-1"'})))
    assert await adapters.store.delete(NAME, sha256_is(b"two")) is not None


async def test_a_file_stored_without_an_entity_tag_has_the_one_of_its_sha256(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    await adapters.store_file(b"one")
    stored = await adapters.reader.find(NAME)
    inspector.db["media"].update_one({}, {"$unset": {"current.etag": ""}})
    found = await adapters.reader.find(NAME)
    assert stored is not None
    assert found is not None
    assert found.etag == stored.etag == sha256_etag(hashlib.sha256(b"one").hexdigest())
    with pytest.raises(PreconditionFailed):
        await adapters.store.delete(NAME, sha256_is(b"two"))
    with pytest.raises(PreconditionFailed):
        await adapters.store.delete(NAME, Preconditions(etag_not_in=frozenset({found.etag})))
    assert await adapters.store.delete(NAME, sha256_is(b"one")) is not None


@pytest.mark.parametrize("page_id", ["", "0" * 23, "$" * 24, "\u0660" * 24, "A" * 24, "0" * 25])
async def test_a_page_key_that_the_store_has_not_made_is_refused(adapters: StoreAdapters, page_id: str) -> None:
    with pytest.raises(BadRequest, match="page token"):
        await adapters.reader.list_files(ListQuery(after=PageKey(datetime(2026, 1, 1, tzinfo=UTC), page_id)))


async def test_acquiring_an_upload_fences_off_the_older_writer(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    """No write, no change of the offset, no renewal, no commit and no clean-up by a writer that has lost the fence."""
    data = os.urandom(CHUNK_SIZE + 10)
    old = await adapters.store.create_upload(NAME, NewUpload(len(data), 60, {"k": "$v"}))
    await adapters.store.write_blocks(old, 0, [data[:CHUNK_SIZE]])
    await adapters.store.set_offset(old, CHUNK_SIZE + 3, data[CHUNK_SIZE : CHUNK_SIZE + 3], len(data), keep_lease=True)
    taken = await adapters.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    new, state = taken
    assert (state.offset, state.tail, state.length, state.metadata) == (
        CHUNK_SIZE + 3,
        data[CHUNK_SIZE:][:3],
        len(data),
        {"k": "$v"},
    )
    for late in (
        adapters.store.renew_lease(old),
        adapters.store.set_offset(old, 1, b"", None, keep_lease=True),
        adapters.store.commit(old, finished_upload(data)),
        adapters.store.truncate_blocks(old, 0),
    ):
        with pytest.raises(Conflict):
            await late
    await adapters.store.abort(old)
    assert inspector.count_chunks() == 1
    await adapters.store.write_blocks(new, 1, [data[CHUNK_SIZE:]])
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(old, 1, [b"late"])
    await adapters.store.commit(new, finished_upload(data))
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data


async def test_late_batch_of_an_older_writer_is_discarded(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """Whether it overlaps or lies past the end: the bytes of the fence's holder count."""
    old = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    taken = await adapters.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    blocks = [bytes([number]) * CHUNK_SIZE for number in range(4)]
    late = [{"files_id": documents.upload_key(old).file_id, "n": n, "data": b"late"} for n in (1, 2, 7)]
    inspector.db["fs.chunks"].insert_many(late)
    await adapters.store.write_blocks(taken[0], 0, blocks)
    data = b"".join(blocks)
    inspector.db["fs.chunks"].insert_one({"files_id": documents.upload_key(old).file_id, "n": 9, "data": b"late"})
    assert [block async for block in adapters.store.iter_blocks(taken[0], 4)] == blocks
    await adapters.store.commit(taken[0], finished_upload(data))
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data
    assert inspector.list_orphans() == []


class PausingStore(GridFSUploadStore):
    """A store in a process that is paused just after it has checked its fence: `during_pause` runs before it continues."""

    during_pause: Callable[[], Awaitable[None]] | None = None

    def run_in_next_pause(self, action: Callable[[], Awaitable[None]]) -> None:
        self.during_pause = action

    async def renew_lease(self, upload: UploadHandle) -> None:
        await super().renew_lease(upload)
        if (doing := self.during_pause) is not None:
            self.during_pause = None
            await doing()


@pytest.mark.parametrize("way", ["truncate", "append", "commit"])
async def test_stale_fence_check_deletes_no_chunks_of_a_successor(
    adapters: StoreAdapters, inspector: MongoInspector, way: str
) -> None:
    """It holds the fence when it looks, is stopped, and wakes up when another has written and shown more."""
    stopped = PausingStore(adapters.mongo, TIMINGS)
    blocks = [bytes([number]) * CHUNK_SIZE for number in range(3)]
    begun = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    taken = await adapters.store.acquire(begun.upload_id)
    assert isinstance(taken, tuple)
    old = taken[0]
    await adapters.store.write_blocks(old, 0, [blocks[0], b"left by the older one"])
    await adapters.store.set_offset(old, CHUNK_SIZE, b"", None, keep_lease=True)

    async def succeed() -> None:
        taken = await adapters.store.acquire(old.upload_id)
        assert isinstance(taken, tuple)
        await adapters.store.write_blocks(taken[0], 1, blocks[1:])
        await adapters.store.set_offset(taken[0], 3 * CHUNK_SIZE, b"", None, keep_lease=False)

    stopped.run_in_next_pause(succeed)
    with suppress(Conflict):
        match way:
            case "truncate":
                await stopped.truncate_blocks(old, 1)
            case "append":
                await stopped.write_blocks(old, 1, [b"late"])
            case "commit":
                await stopped.commit(old, finished_upload(blocks[0]))
    assert stopped.during_pause is None
    assert inspector.read_file(documents.upload_key(old).file_id) == b"".join(blocks)
    assert inspector.only_document()["current"] is None


async def test_commit_without_the_fence_changes_nothing(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """Although its view of the file is shorter than what a successor has written."""
    begun = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    holds = [await adapters.store.acquire(begun.upload_id) for _ in range(2)]
    old, new = (hold[0] for hold in holds if isinstance(hold, tuple))
    await adapters.store.write_blocks(new, 0, [b"x" * CHUNK_SIZE] * 2)
    with pytest.raises(Conflict):
        await adapters.store.commit(old, finished_upload(b"x" * CHUNK_SIZE))
    assert inspector.count_chunks() == 2
    assert inspector.db["fs.files"].count_documents({}) == 0


async def test_outcome_of_an_upload_is_remembered(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(0, 0.6))
    rival = await adapters.store.create_upload(NAME, NewUpload(0, 0.6))
    assert isinstance(await adapters.store.get_durable_info(upload.upload_id), InProgressUpload)
    await adapters.store.commit(upload, finished_upload(b""))
    await adapters.store.abort(rival, name_taken=True)
    ends = [await adapters.store.get_durable_info(one.upload_id) for one in (upload, rival)]
    assert all(isinstance(end, FinishedUpload) for end in ends)
    assert [end.outcome for end in ends if isinstance(end, FinishedUpload)] == ["stored", "lost"]
    assert isinstance(await adapters.store.acquire(upload.upload_id), FinishedUpload)
    await asyncio.sleep(0.7)
    await adapters.collect_once()
    assert inspector.only_document()["ended"] == []


async def test_expiry_counts_from_the_last_byte_not_from_a_renewal(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    """A lease of 0.4 s that is renewed 0.5 s before the expiry does not move it."""
    upload = await adapters.store.create_upload(NAME, NewUpload(9, 0.9))
    await asyncio.sleep(0.5)
    await adapters.store.set_offset(upload, 1, b"x", 9, keep_lease=True)
    moved = await adapters.store.get_durable_info(upload.upload_id)
    await adapters.store.renew_lease(upload)
    await asyncio.sleep(0.5)
    later = await adapters.store.get_durable_info(upload.upload_id)
    assert isinstance(moved, InProgressUpload)
    assert isinstance(later, InProgressUpload)
    assert later.expires_at == moved.expires_at
    await asyncio.sleep(0.5)
    assert await adapters.store.get_durable_info(upload.upload_id) is None
    assert await adapters.store.acquire(upload.upload_id) is None
    await adapters.collect_until_done(inspector)
    assert inspector.list_documents() == []


async def test_durable_info_does_not_wait_for_a_dead_writer(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(9, 60))
    await adapters.store.set_offset(upload, 1, b"x", 9, keep_lease=True)
    seen = await adapters.store.get_info(upload.upload_id)
    assert isinstance(seen, InProgressUpload)
    assert seen.write_in_progress
    async with asyncio.timeout(5):
        while isinstance(seen, InProgressUpload) and seen.write_in_progress:
            await asyncio.sleep(0.05)
            seen = await adapters.store.get_durable_info(upload.upload_id)
    assert isinstance(seen, InProgressUpload)


async def test_dead_writer_is_collected_and_a_live_one_is_not(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    dead = await adapters.store.create_upload(MediaName("", "dead"), NewUpload())
    await adapters.store.write_blocks(dead, 0, [b"x" * CHUNK_SIZE] * 3)
    living = await adapters.store.create_upload(MediaName("", "living"), NewUpload())
    for _ in range(6):
        await asyncio.sleep(0.15)
        await adapters.store.renew_lease(living)
        await adapters.collect_once()
    (left,) = [document for document in inspector.list_documents() if document["uploads"]]
    assert left["filename"] == "living"
    assert inspector.count_chunks() == 0
    for late in (adapters.store.renew_lease(dead), adapters.store.commit(dead, finished_upload(b""))):
        with pytest.raises(Conflict):
            await late
    # It was stopped before its last insert: what comes now is swept by the second due.
    inspector.db["fs.chunks"].insert_one({"files_id": documents.upload_key(dead).file_id, "n": 3, "data": b"late"})
    await adapters.store.abort(living)
    await adapters.collect_until_done(inspector)
    await adapters.collect_once()
    assert inspector.count_chunks() == 0
    assert inspector.list_documents() == []


async def test_two_concurrent_collectors_with_one_failing_anywhere(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    """The result is the same: only current versions are left."""
    for number in range(12):
        name = MediaName("", str(number))
        await adapters.store_file(b"old", name)
        await adapters.store_file(b"new", name)
        await adapters.store.create_upload(name, NewUpload(), NO_PRECONDITIONS)
    await asyncio.sleep(0.5)
    for seconds in (0.005, 0.01, 0.02, 0.04):
        task = asyncio.create_task(adapters.collect_once())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait({task})
    for _ in range(4):
        await asyncio.gather(adapters.collect_once(), adapters.collect_once())
        await asyncio.sleep(0.2)
    await adapters.collect_until_done(inspector)
    assert inspector.count_chunks() == 12
    assert inspector.list_orphans() == []
    assert all(document["current"]["length"] == 3 for document in inspector.list_documents())


async def test_second_purge_is_not_skipped_by_the_slower_collector(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await asyncio.sleep(0.45)
    await adapters.collect_once()
    (version,) = inspector.only_document()["doomed"]
    assert version["late"] is False
    # The last update of a slower collector, as it would arrive now.
    await adapters.mongo.collection("media").update_one(
        {}, document_updates.mark_purged(documents.upload_key(upload).file_id, TIMINGS)
    )
    assert inspector.only_document()["doomed"] == [version]


async def test_deletion(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    assert await adapters.store.delete(NAME) is None
    await adapters.store_file(b"one")
    with pytest.raises(PreconditionFailed):
        await adapters.store.delete(NAME, sha256_is(b"two"))
    announcement = await adapters.store.delete(NAME, sha256_is(b"one"))
    assert announcement is not None
    assert (announcement.type, announcement.info.length) == ("file.deleted", 3)
    assert await adapters.reader.find(NAME) is None
    assert await adapters.store.delete(NAME) is None
    (media,) = [media async for media in adapters.keeper.list_due()]
    assert [note.type for note in await adapters.keeper.list_unpublished(media)] == ["file.created", "file.deleted"]
    for note in await adapters.keeper.list_unpublished(media):
        await adapters.store.ack_event(note)
    await adapters.collect_until_done(inspector)
    assert inspector.list_documents() == []
    assert inspector.count_chunks() == 0


async def test_an_empty_document_is_deleted_in_whatever_order_its_events_are_acknowledged(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    await adapters.store_file(b"one")
    (media_id,) = [str(document["_id"]) for document in inspector.list_documents()]
    await adapters.store.delete(NAME)
    created, deleted = await adapters.keeper.list_unpublished(media_id)
    await adapters.collect_until_done(inspector)
    await adapters.store.ack_event(deleted)
    await adapters.store.ack_event(created)
    await adapters.collect_once()
    assert inspector.list_documents() == []


async def read_outbox(adapters: StoreAdapters, inspector: MongoInspector) -> list[OutboxEvent]:
    return list(await adapters.keeper.list_unpublished(str(inspector.only_document()["_id"])))


async def test_the_revision_counts_the_changes_of_a_name(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    for number, data in enumerate((b"one", b"two", b"three"), 1):
        await adapters.store_file(data)
        found = await adapters.reader.find(NAME)
        assert found is not None
        assert found.revision == number
    with pytest.raises(PreconditionFailed):
        await adapters.store_file(b"four", expected=sha256_is(b"x"))
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert deleted.info.revision == 4
    await adapters.store_file(b"five")
    (listed,) = (await adapters.reader.list_files(ListQuery())).files
    assert listed.revision == 5
    revisions = [event.info.revision for event in await read_outbox(adapters, inspector)]
    assert revisions == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("way", ["acknowledged last", "collected", "aborted last"])
async def test_the_revision_never_falls_after_its_document_was_deleted(
    adapters: StoreAdapters, inspector: MongoInspector, way: str
) -> None:
    for _ in range(3):
        await adapters.store_file(b"x")
    rival = await adapters.store.create_upload(NAME, NewUpload(ttl=60), NO_PRECONDITIONS)
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    if way == "aborted last":
        await adapters.store.ack_event(deleted)
        async with asyncio.timeout(10):
            while inspector.only_document()["doomed"] or inspector.only_document()["announce"]:
                await adapters.collect_once()
                await asyncio.sleep(0.05)
        await adapters.store.abort(rival)
    else:
        await adapters.store.abort(rival)
        if way == "collected":
            await adapters.store.ack_event(deleted)
        await adapters.collect_until_done(inspector)
        await adapters.store.ack_event(deleted)
        await adapters.collect_once()
    assert inspector.list_documents() == []
    await adapters.store_file(b"again")
    found = await adapters.reader.find(NAME)
    assert found is not None
    assert found.revision == deleted.info.revision + 1 == 5
    await adapters.store_file(b"other", MediaName("f", "other"))
    other = await adapters.reader.find(MediaName("f", "other"))
    assert other is not None
    assert other.revision == 1, "a name of another bucket begins at 0"


async def test_documents_without_a_revision_begin_at_0(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    await adapters.store_file(b"one")
    inspector.db["media"].update_one({}, {"$unset": {"revision": "", "announce.0.revision": ""}})
    found = await adapters.reader.find(NAME)
    assert found is not None
    assert found.revision == 0
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert [event.info.revision for event in (*deleted.earlier, deleted)] == [0, 1]
    await adapters.store.ack_event(deleted)
    assert await read_outbox(adapters, inspector) == []


async def test_an_event_brings_the_unpublished_ones_before_it(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    """An acknowledgement covers them. They stay until they are old: their own writers may still look for them."""
    await adapters.store_file(b"one")
    await adapters.store_file(b"two")
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert [event.type for event in deleted.earlier] == ["file.created", "file.replaced"]
    created, replaced = deleted.earlier
    await adapters.store.ack_event(replaced)
    assert [event.id for event in await read_outbox(adapters, inspector)] == [deleted.id]
    again = documents.decode_committed_event(inspector.only_document(), ObjectId(created.id), 0.0)
    assert again is not None
    await adapters.store_file(b"three")
    newest = (await read_outbox(adapters, inspector))[-1]
    found = documents.decode_committed_event(inspector.only_document(), ObjectId(newest.id), 0.0)
    assert found is not None
    assert [event.id for event in found.earlier] == [deleted.id]
    await adapters.store.ack_event(created)
    await adapters.collect_once()
    assert [str(entry["id"]) for entry in inspector.only_document()["announce"]] == [deleted.id, newest.id]


async def test_old_events_are_listed_with_those_before_them(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """The database's clock may be set back between two changes."""
    for _ in range(3):
        await adapters.store_file(b"x")
    times = [datetime.now(UTC) + timedelta(hours=hours) for hours in (1, -1, 1)]
    for number, at in enumerate(times):
        inspector.db["media"].update_one({}, {"$set": {f"announce.{number}.at": at}})
    assert [event.info.revision for event in await read_outbox(adapters, inspector)] == [1, 2]


async def test_a_full_outbox_says_what_it_leaves_out(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """The oldest events become one `socket.resync`, which keeps its id when it grows."""
    limit = outbox_updates.MAX_OUTBOX_EVENTS
    for _ in range(limit):
        await adapters.store_file(b"")
    assert [event.type for event in await read_outbox(adapters, inspector)] == ["file.created"] + ["file.replaced"] * (
        limit - 1
    )
    ids = set()
    for more in (1, 2, 3):
        await adapters.store_file(b"")
        resync, *others = await read_outbox(adapters, inspector)
        assert (resync.type, resync.info.revision) == ("socket.resync", more + 1)
        assert [event.info.revision for event in others] == list(range(more + 2, limit + more + 1))
        ids.add(resync.id)
    assert len(ids) == 1
    await adapters.store.ack_event(resync)
    await adapters.store_file(b"")
    assert [event.type for event in await read_outbox(adapters, inspector)] == ["file.replaced"] * limit
    # Published ones make room first.
    await adapters.store.ack_event((await read_outbox(adapters, inspector))[9])
    for _ in range(10):
        await adapters.store_file(b"")
    assert [event.type for event in await read_outbox(adapters, inspector)] == ["file.replaced"] * limit
    assert len(inspector.only_document()["announce"]) == limit


class DelayedFirstWrite(Committer):
    """The first change is still in transit when its sender gives up, and arrives after the first check."""

    delayed_write: tuple[Any, Any, ObjectId] | None = None
    sent = False

    async def _find_and_update(self, query: Any, update: Any, record_id: ObjectId) -> Any:
        if not self.sent:
            self.sent, self.delayed_write = True, (query, update, record_id)
            raise ServiceUnavailable("no answer")
        found = await super()._find_and_update(query, update, record_id)
        if self.delayed_write is not None:
            first, self.delayed_write = self.delayed_write, None
            await super()._find_and_update(*first)
        return found


async def test_late_deletion_is_no_failure(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"one")
    done = await DelayedFirstWrite(adapters.mongo, TIMINGS).delete(NAME, NO_PRECONDITIONS)
    assert done is not None
    assert done.type == "file.deleted"
    assert await adapters.reader.find(NAME) is None


async def test_late_commit_is_applied_once(adapters: StoreAdapters) -> None:
    """Its sender raises the fence before it retries: the late change finds nothing, or was first and is found."""
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    done = await DelayedFirstWrite(adapters.mongo, TIMINGS).commit(upload, finished_upload(b"one"), MUST_NOT_EXIST)
    assert done is not None
    assert done.type == "file.created"
    found = await adapters.reader.find(NAME)
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"one").hexdigest()


class LostReply(Committer):
    """Changes are applied, and the first reply is lost: the caller gets none."""

    asked = 0

    async def _find_and_update(self, query: Any, update: Any, record_id: ObjectId) -> Any:
        self.asked += 1
        found = await super()._find_and_update(query, update, record_id)
        if self.asked == 1:
            await asyncio.sleep(60)
        return found


async def test_outcome_of_an_unanswered_commit_is_resolved(
    adapters: StoreAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "ATTEMPT_TIMEOUT_SECONDS", 0.3)
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    done = await LostReply(adapters.mongo, TIMINGS).commit(upload, finished_upload(b"one"), MUST_NOT_EXIST)
    assert done is not None
    assert done.type == "file.created"


async def test_insert_with_a_lost_reply_is_repeated(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """The holder of the fence finds its own chunks, however long ago the upload began."""
    adapters.store._chunk_store = SlowChunks(adapters.mongo)
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    assert inspector.count_chunks() == 1


class SlowChunks(ChunkStore):
    """The first insert takes longer than the retry window, and its reply is lost: the driver's retry finds it."""

    slow = True

    async def _insert_many(self, chunks: list[dict[str, Any]]) -> None:
        await super()._insert_many(chunks)
        if self.slow:
            self.slow = False
            await asyncio.sleep(INSERT_RETRY_SECONDS + 0.1)
            raise Conflict("another writer has acquired this upload")


async def test_unnamed_upload_gets_its_name_at_the_commit(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    upload = await adapters.store.create_upload(None, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"abc"])
    named = await adapters.store.assign_name(upload, NAME)
    await adapters.store.commit(named, finished_upload(b"abc"))
    assert inspector.only_document()["folder"] == "f"
    other = await adapters.store.create_upload(None, NewUpload())
    with pytest.raises(AlreadyExists):
        await adapters.store.assign_name(other, NAME)
    await adapters.store.abort(other)
    assert len(inspector.list_documents()) == 1


def new_tus_upload(client: str, **metadata: str) -> NewUpload:
    return NewUpload(None, 60, metadata, client)


def upload_ids(inspector: MongoInspector) -> list[str]:
    document = inspector.only_document()
    return [f"{document['_id']}-{entry['id']}" for entry in document["uploads"]]


async def test_long_tails_are_not_in_the_document(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """Every change of the document would cost a copy of them: also changes by others."""
    store = adapters.store
    data = os.urandom(CHUNK_SIZE - 1)
    uploads = [await store.create_upload(NAME, new_tus_upload(str(number))) for number in range(60)]
    for upload in uploads:
        await store.set_offset(upload, len(data), data, None, keep_lease=False)
    assert len(bson.encode(inspector.only_document())) < 64 * 1024
    assert inspector.list_orphans() == []
    acquired = await store.acquire(uploads[7].upload_id)
    assert isinstance(acquired, tuple)
    upload, state = acquired
    assert (state.offset, state.tail) == (len(data), data)
    await store.write_blocks(upload, 0, [data + b"x"])
    await store.commit(upload, finished_upload(data + b"x"))
    for other in (uploads[8], uploads[9]):
        await store.abort(other)
    await adapters.collect_once()
    assert inspector.count_chunks() == 1 + 57
    inspector.db["media"].update_one(
        {}, {"$set": {"uploads.$[].expires_at": datetime.now(UTC), "attention": datetime.now(UTC)}}
    )
    await adapters.collect_until_done(inspector)
    assert inspector.count_chunks() == 1


@pytest.mark.parametrize("keep_lease", [False, True])
async def test_a_tail_replaces_older_ones(
    adapters: StoreAdapters, inspector: MongoInspector, *, keep_lease: bool
) -> None:
    """A writer that was overtaken neither replaces nor deletes the tail of its successor."""
    store = adapters.store
    data = os.urandom(CHUNK_SIZE - 1)
    old = await store.create_upload(NAME, new_tus_upload("a"))
    for length in (5000, 6000, 10, 7000):
        await store.set_offset(old, length, data[:length], None, keep_lease=keep_lease)
        assert inspector.count_chunks() <= 2
    taken = await store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    assert (taken[1].offset, taken[1].tail) == (7000, data[:7000])
    await store.set_offset(taken[0], 8000, data[:8000], None, keep_lease=False)
    with pytest.raises(Conflict):
        await store.set_offset(old, 9000, data[:9000][::-1], None, keep_lease=keep_lease)
    again = await store.acquire(old.upload_id)
    assert isinstance(again, tuple)
    assert (again[1].offset, again[1].tail) == (8000, data[:8000])
    await store.set_offset(again[0], 8001, data[:8001], None, keep_lease=False)
    assert inspector.count_chunks() == 1
    await store.set_offset(again[0], 0, b"", None, keep_lease=False)
    assert inspector.count_chunks() == 0


async def test_a_writer_that_dies_behind_the_insert_of_a_tail_leaves_none(
    adapters: StoreAdapters, inspector: MongoInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the offset is set, as a killed process does. The chunk goes with the upload."""
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))

    def die_here(*_: object, **__: object) -> NoReturn:
        raise ServiceUnavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(document_updates, "set_offset", die_here)
        with pytest.raises(ServiceUnavailable):
            await adapters.store.set_offset(upload, 5000, b"x" * 5000, None, keep_lease=False)
    await adapters.store.renew_lease(upload)
    await adapters.store.abort(upload)
    await adapters.collect_until_done(inspector)
    assert inspector.count_chunks() == 0
    assert inspector.list_orphans() == []


async def test_a_missing_tail_is_reported(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.set_offset(upload, 5000, b"x" * 5000, None, keep_lease=False)
    inspector.db["fs.chunks"].delete_many({})
    with pytest.raises(Gone, match="corrupt"):
        await adapters.store.acquire(upload.upload_id)


async def test_idle_uploads_give_way_to_new_ones(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """A client's own ones without a byte where it has too many; then those of the client with the most."""
    store = adapters.store
    per_client, limit = admission.MAX_IDLE_UPLOADS_PER_CLIENT, admission.MAX_UPLOADS_PER_NAME
    own = [await store.create_upload(NAME, new_tus_upload("a")) for _ in range(per_client)]
    await store.set_offset(own[0], 1, b"x", None, keep_lease=False)
    newest = await store.create_upload(NAME, new_tus_upload("a"))
    assert upload_ids(inspector) == [own[0].upload_id, *(one.upload_id for one in own[2:]), newest.upload_id]
    assert await store.acquire(own[1].upload_id) is None
    assert len(inspector.only_document()["doomed"]) == 1
    # Three clients fill the document; a fourth gets the oldest empty one of the one with the most.
    for number in range(limit - per_client):
        await store.create_upload(NAME, new_tus_upload("bcde"[number % 4]))
    assert len(upload_ids(inspector)) == limit
    for client in ("f", "", "g"):
        before = upload_ids(inspector)
        upload = await store.create_upload(NAME, new_tus_upload(client))
        after = upload_ids(inspector)
        assert len(after) == limit
        assert after[-1] == upload.upload_id
        (evicted,) = set(before) - set(after)
        assert evicted == next(id_ for id_ in before if id_ in {one.upload_id for one in (*own[2:], newest)})
    # Not the ones with bytes, where there are others, and never one with a writer.
    assert own[0].upload_id in upload_ids(inspector)


@pytest.mark.parametrize("offset", [0, 1])
async def test_a_request_that_stores_a_file_is_not_refused_for_idle_uploads(
    adapters: StoreAdapters, inspector: MongoInspector, offset: int
) -> None:
    """Not even where they are of as many clients, and have bytes."""
    store = adapters.store
    idle = []
    for number in range(admission.MAX_UPLOADS_PER_NAME):
        idle.append(await store.create_upload(NAME, new_tus_upload(f"client {number}")))
        await store.set_offset(idle[-1], offset, b"x" * offset, None, keep_lease=False)
    with pytest.raises(TooManyRequests) as refused:
        await store.create_upload(NAME, new_tus_upload("client 1"))
    assert int(refused.value.headers["retry-after"]) > 0
    await store.create_upload(NAME, new_tus_upload("another client"))
    await adapters.store_file(b"stored", expected=MUST_NOT_EXIST)
    assert (await adapters.reader.find(NAME)) is not None
    assert len(upload_ids(inspector)) == admission.MAX_UPLOADS_PER_NAME - 1


async def test_uploads_with_a_writer_are_not_evicted(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    store = adapters.store
    for _ in range(admission.MAX_UPLOADS_PER_NAME):
        await store.create_upload(NAME, NewUpload(client="a"))
    for new_upload in (NewUpload(client="b"), new_tus_upload("b"), new_tus_upload("a")):
        with pytest.raises(TooManyRequests):
            await store.create_upload(NAME, new_upload)
    assert inspector.only_document()["doomed"] == []


async def test_a_failed_precondition_evicts_nothing(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    store = adapters.store
    for _ in range(admission.MAX_IDLE_UPLOADS_PER_CLIENT):
        await store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store_file(b"x")
    before = upload_ids(inspector)
    with pytest.raises(AlreadyExists):
        await store.create_upload(NAME, new_tus_upload("a"))
    assert upload_ids(inspector) == before


async def test_the_metadata_of_unfinished_uploads_is_bounded(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    store = adapters.store
    small = await store.create_upload(NAME, new_tus_upload("small", k="v"))
    for number in range(40):
        with suppress(TooManyRequests):
            await store.create_upload(NAME, new_tus_upload(f"client {number % 20}", k="v" * 24_000))
        assert len(bson.encode(inspector.only_document())) < admission.MAX_FACTS_BYTES + 64 * 1024
    await store.create_upload(NAME, new_tus_upload("other", k="v" * 2000))
    assert small.upload_id in upload_ids(inspector)
    await adapters.store_file(b"stored")


async def test_too_many_tombstones_reject_another_replacement(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    await adapters.store_file(b"x")
    waiting = [
        {"file": ObjectId(), "due": datetime.now(UTC) + timedelta(hours=1), "late": False}
    ] * document_updates.MAX_TOMBSTONES
    inspector.db["media"].update_one({}, {"$set": {"doomed": waiting}})
    with pytest.raises(TooManyRequests):
        await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    assert (await adapters.reader.find(NAME)) is not None


async def test_orphans_are_a_day_old_and_unreferenced(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    old = datetime.now(UTC) - timedelta(hours=25)
    stray, foreign = ObjectId.from_datetime(old), ObjectId.from_datetime(old + timedelta(seconds=1))
    young = ObjectId()
    inspector.db["fs.chunks"].insert_many({"files_id": file, "n": 0, "data": b""} for file in (stray, foreign, young))
    inspector.db["fs.files"].insert_one({"_id": foreign, "length": 0})
    await adapters.store_file(b"ours")
    assert await adapters.keeper.delete_orphans() == 1
    assert await adapters.keeper.delete_orphans() == 0
    assert inspector.db["fs.chunks"].count_documents({"files_id": stray}) == 0
    assert inspector.count_chunks() == 3


async def test_an_old_upload_without_a_current_file_keeps_its_blocks(
    adapters: StoreAdapters, inspector: MongoInspector
) -> None:
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(upload, 0, [b"x" * CHUNK_SIZE])
    old = ObjectId.from_datetime(datetime.now(UTC) - timedelta(hours=25))
    inspector.db["media"].update_one({}, {"$set": {"uploads.$[].file": old}})
    inspector.db["fs.chunks"].update_many({}, {"$set": {"files_id": old}})
    assert await adapters.keeper.delete_orphans() == 0
    assert inspector.count_chunks() == 1


@pytest.mark.parametrize("address", ["", "-", "x-y", "a" * 24, "{}-{}", "a" * 24 + "-"])
async def test_unknown_upload_id_is_not_found(adapters: StoreAdapters, address: str) -> None:
    assert await adapters.store.get_durable_info(address) is None
    assert await adapters.store.acquire(address) is None
    assert adapters.store.upload_age(address) is None


async def test_chunks_are_stored_as_they_are(adapters: StoreAdapters, inspector: MongoInspector) -> None:
    """Media are compressed already. Where the collection exists, its creator has decided."""
    (chunks,) = inspector.db.list_collections(filter={"name": "fs.chunks"})
    assert chunks["options"]["storageEngine"] == indexes.UNCOMPRESSED
    inspector.db.drop_collection("fs.chunks")
    inspector.db.create_collection("fs.chunks")
    await adapters.store.ensure_schema()
    (chunks,) = inspector.db.list_collections(filter={"name": "fs.chunks"})
    assert "storageEngine" not in chunks["options"]
    assert "files_id_1_n_1" in inspector.db["fs.chunks"].index_information()
