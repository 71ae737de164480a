"""What is particular to the GridFS store, with either driver: shard keys, chunks, lost answers, documents of older versions."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import bson
import pytest
from bson import ObjectId

from services.common.errors import Conflict, PreconditionFailed, ServiceUnavailable, TooManyRequests
from services.common.media import MediaName, Poster, sha256_etag
from services.common.store import limits
from services.common.store.gridfs import commit, document_updates, documents, garbage_collector, indexes
from services.common.store.gridfs.chunks import INSERT_RETRY_SECONDS, ChunkStore
from services.common.store.gridfs.commit import Committer
from services.common.store.gridfs.move import Mover
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS, Preconditions
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
    UploadHandle,
)
from tests.support.databases import PreparedDatabases, ServerProcess
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import (
    NAME,
    TIMINGS,
    GridFSAdapters,
    finished_upload,
    new_tus_upload,
    open_gridfs,
    sha256_is,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["motor", "pymongo"])
async def adapters(
    request: pytest.FixtureRequest, mongod: ServerProcess, prepared_databases: PreparedDatabases
) -> AsyncIterator[GridFSAdapters]:
    with prepared_databases.use() as database:
        async with open_gridfs(mongod.url, database, request.param) as gridfs:
            yield gridfs


async def read_outbox(adapters: GridFSAdapters) -> list[OutboxEvent]:
    return list(await adapters.keeper.list_unpublished(str(adapters.inspector.only_document()["_id"])))


async def test_a_version_has_these_fields_and_a_files_entry(adapters: GridFSAdapters) -> None:
    """The second is for other tools, and is deleted with its version."""
    await adapters.store_file(b"one")
    await adapters.store_file(b"second")
    fields = {"file", "length", "content_type", "sha256", "etag", "uploaded_at"}
    assert set(adapters.inspector.only_document()["current"]) == fields
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.db["fs.files"].count_documents({}) == 1


async def test_every_find_and_update_uses_the_shard_key(adapters: GridFSAdapters) -> None:
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
    assert await adapters.store.move_file(NAME, MediaName("h", "moved"))
    assert await adapters.store.move_file(MediaName("h", "moved"), NAME)
    await adapters.store.set_poster(NAME, Poster(b"GIF89a", "image/gif", "0" * 64))
    await adapters.store.delete(NAME)
    await adapters.store.restore(NAME)
    await adapters.store.delete(NAME)
    # What is done where an answer was lost.
    key = documents.upload_key(upload)
    place = documents.document_filter(key.media_id, upload.name, key.record_id)
    await adapters.store._committer._read_durable(place, key.record_id)
    await adapters.mongo.database.command("profile", 0)
    asked = list(adapters.inspector.db["system.profile"].find({"command.findAndModify": "media"}))
    assert len(asked) >= 2 * 5 + 3 + 2 * 4 + 3
    assert [one for one in asked if not {"folder", "filename"} <= one["command"]["query"].keys()] == []


async def test_a_file_stored_without_an_entity_tag_has_the_one_of_its_sha256(adapters: GridFSAdapters) -> None:
    await adapters.store_file(b"one")
    stored = await adapters.reader.find(NAME)
    adapters.inspector.db["media"].update_one({}, {"$unset": {"current.etag": ""}})
    found = await adapters.reader.find(NAME)
    assert stored is not None
    assert found is not None
    assert found.etag == stored.etag == sha256_etag(hashlib.sha256(b"one").hexdigest())
    with pytest.raises(PreconditionFailed):
        await adapters.store.delete(NAME, sha256_is(b"two"))
    with pytest.raises(PreconditionFailed):
        await adapters.store.delete(NAME, Preconditions(etag_not_in=frozenset({found.etag})))
    assert await adapters.store.delete(NAME, sha256_is(b"one")) is not None


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
async def test_stale_fence_check_deletes_no_chunks_of_a_successor(adapters: GridFSAdapters, way: str) -> None:
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
    assert adapters.inspector.read_file(documents.upload_key(old).file_id) == b"".join(blocks)
    assert adapters.inspector.only_document()["current"] is None


async def test_second_purge_is_not_skipped_by_the_slower_collector(adapters: GridFSAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await asyncio.sleep(0.45)
    await adapters.collect_once()
    (version,) = adapters.inspector.only_document()["doomed"]
    assert version["late"] is False
    # The last update of a slower collector, as it would arrive now.
    await adapters.mongo.collection("media").update_one(
        {}, document_updates.mark_purged(documents.upload_key(upload).file_id, TIMINGS)
    )
    assert adapters.inspector.only_document()["doomed"] == [version]


async def test_documents_without_a_revision_begin_at_0(adapters: GridFSAdapters) -> None:
    await adapters.store_file(b"one")
    adapters.inspector.db["media"].update_one({}, {"$unset": {"revision": "", "announce.0.revision": ""}})
    found = await adapters.reader.find(NAME)
    assert found is not None
    assert found.revision == 0
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert [event.info.revision for event in (*deleted.earlier, deleted)] == [0, 1]
    await adapters.store.ack_event(deleted)
    assert await read_outbox(adapters) == []


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


async def test_late_deletion_is_no_failure(adapters: GridFSAdapters) -> None:
    await adapters.store_file(b"one")
    done = await DelayedFirstWrite(adapters.mongo, TIMINGS, Mover(adapters.mongo, TIMINGS)).delete(
        NAME, NO_PRECONDITIONS
    )
    assert done is not None
    assert done.type == "file.deleted"
    assert await adapters.reader.find(NAME) is None


async def test_late_commit_is_applied_once(adapters: GridFSAdapters) -> None:
    """Its sender raises the fence before it retries: the late change finds nothing, or was first and is found."""
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    done = await DelayedFirstWrite(adapters.mongo, TIMINGS, Mover(adapters.mongo, TIMINGS)).commit(
        upload, finished_upload(b"one"), MUST_NOT_EXIST
    )
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
    adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "ATTEMPT_TIMEOUT_SECONDS", 0.3)
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    committer = LostReply(adapters.mongo, TIMINGS, Mover(adapters.mongo, TIMINGS))
    done = await committer.commit(upload, finished_upload(b"one"), MUST_NOT_EXIST)
    assert done is not None
    assert done.type == "file.created"


async def test_insert_with_a_lost_reply_is_repeated(adapters: GridFSAdapters) -> None:
    """The holder of the fence finds its own chunks, however long ago the upload began."""
    adapters.store._chunk_store = SlowChunks(adapters.mongo)
    upload = await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.write_blocks(upload, 0, [b"one"])
    assert adapters.inspector.count_chunks() == 1


class SlowChunks(ChunkStore):
    """The first insert takes longer than the retry window, and its reply is lost: the driver's retry finds it."""

    slow = True

    async def _insert_many(self, chunks: list[dict[str, Any]]) -> None:
        await super()._insert_many(chunks)
        if self.slow:
            self.slow = False
            await asyncio.sleep(INSERT_RETRY_SECONDS + 0.1)
            raise Conflict("another writer has acquired this upload")


async def test_long_tails_are_not_in_the_document(adapters: GridFSAdapters) -> None:
    """Every change of the document would cost a copy of them: also changes by others."""
    store = adapters.store
    data = os.urandom(CHUNK_SIZE - 1)
    uploads = [await store.create_upload(NAME, new_tus_upload(str(number))) for number in range(60)]
    for upload in uploads:
        await store.set_offset(upload, len(data), data, None, keep_lease=False)
    assert len(bson.encode(adapters.inspector.only_document())) < 64 * 1024
    assert adapters.inspector.list_orphans() == []
    acquired = await store.acquire(uploads[7].upload_id)
    assert isinstance(acquired, tuple)
    upload, state = acquired
    assert (state.offset, state.tail) == (len(data), data)
    await store.write_blocks(upload, 0, [data + b"x"])
    await store.commit(upload, finished_upload(data + b"x"))
    for other in (uploads[8], uploads[9]):
        await store.abort(other)
    await adapters.collect_once()
    assert adapters.inspector.count_chunks() == 1 + 57
    adapters.inspector.db["media"].update_one(
        {}, {"$set": {"uploads.$[].expires_at": datetime.now(UTC), "attention": datetime.now(UTC)}}
    )
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_chunks() == 1


@pytest.mark.parametrize("keep_lease", [False, True])
async def test_a_tail_replaces_older_ones(adapters: GridFSAdapters, *, keep_lease: bool) -> None:
    """A writer that was overtaken neither replaces nor deletes the tail of its successor."""
    store = adapters.store
    data = os.urandom(CHUNK_SIZE - 1)
    old = await store.create_upload(NAME, new_tus_upload("a"))
    for length in (5000, 6000, 10, 7000):
        await store.set_offset(old, length, data[:length], None, keep_lease=keep_lease)
        assert adapters.inspector.count_chunks() <= 2
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
    assert adapters.inspector.count_chunks() == 1
    await store.set_offset(again[0], 0, b"", None, keep_lease=False)
    assert adapters.inspector.count_chunks() == 0


async def test_a_writer_that_dies_behind_the_insert_of_a_tail_leaves_none(
    adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch
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
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_chunks() == 0
    assert adapters.inspector.list_orphans() == []


async def test_the_metadata_of_unfinished_uploads_is_bounded(adapters: GridFSAdapters) -> None:
    store = adapters.store
    small = await store.create_upload(NAME, new_tus_upload("small", k="v"))
    for number in range(40):
        with suppress(TooManyRequests):
            await store.create_upload(NAME, new_tus_upload(f"client {number % 20}", k="v" * 24_000))
        assert len(bson.encode(adapters.inspector.only_document())) < limits.MAX_FACTS_BYTES + 64 * 1024
    await store.create_upload(NAME, new_tus_upload("other", k="v" * 2000))
    left = {str(entry["id"]) for entry in adapters.inspector.only_document()["uploads"]}
    assert small.upload_id.split("-")[1] in left
    await adapters.store_file(b"stored")


async def test_orphans_are_a_day_old_and_unreferenced(adapters: GridFSAdapters) -> None:
    old = datetime.now(UTC) - timedelta(hours=25)
    stray, foreign = ObjectId.from_datetime(old), ObjectId.from_datetime(old + timedelta(seconds=1))
    young = ObjectId()
    adapters.inspector.db["fs.chunks"].insert_many(
        {"files_id": file, "n": 0, "data": b""} for file in (stray, foreign, young)
    )
    adapters.inspector.db["fs.files"].insert_one({"_id": foreign, "length": 0})
    await adapters.store_file(b"ours")
    assert await adapters.keeper.delete_orphans() == 1
    assert await adapters.keeper.delete_orphans() == 0
    assert adapters.inspector.db["fs.chunks"].count_documents({"files_id": stray}) == 0
    assert adapters.inspector.count_chunks() == 3


async def test_the_late_tail_of_a_writer_that_was_overtaken_is_deleted_as_an_orphan(
    adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paused before the insert; another process has ended the upload, and deleted the tails that were there."""
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    insert_tail = ChunkStore.insert_tail

    async def paused(chunk_store: ChunkStore, record_id: ObjectId, number: int, tail: bytes) -> None:
        taken = await adapters.store.acquire(upload.upload_id)
        assert isinstance(taken, tuple)
        await adapters.store.write_blocks(taken[0], 0, [b"ended"])
        await adapters.store.commit(taken[0], finished_upload(b"ended"))
        await adapters.collect_until_done(adapters.inspector)
        await insert_tail(chunk_store, record_id, number, tail)

    monkeypatch.setattr(ChunkStore, "insert_tail", paused)
    with pytest.raises(Conflict):
        await adapters.store.set_offset(upload, 5000, b"x" * 5000, None, keep_lease=True)
    assert adapters.inspector.count_chunks() == 2
    monkeypatch.setattr(garbage_collector, "MIN_ORPHAN_AGE", timedelta(hours=-1))
    assert await adapters.keeper.delete_orphans() == 1
    assert adapters.inspector.count_chunks() == 1
    info = await adapters.reader.find(NAME)
    assert info is not None
    assert await adapters.reader.read_blocks(info, 0, 0) == [b"ended"]


async def test_an_old_upload_without_a_current_file_keeps_its_blocks(adapters: GridFSAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.write_blocks(upload, 0, [b"x" * CHUNK_SIZE])
    old = ObjectId.from_datetime(datetime.now(UTC) - timedelta(hours=25))
    adapters.inspector.db["media"].update_one({}, {"$set": {"uploads.$[].file": old}})
    adapters.inspector.db["fs.chunks"].update_many({}, {"$set": {"files_id": old}})
    assert await adapters.keeper.delete_orphans() == 0
    assert adapters.inspector.count_chunks() == 1


async def test_chunks_are_stored_as_they_are(adapters: GridFSAdapters) -> None:
    """Media are compressed already. Where the collection exists, its creator has decided."""
    (chunks,) = adapters.inspector.db.list_collections(filter={"name": "fs.chunks"})
    assert chunks["options"]["storageEngine"] == indexes.UNCOMPRESSED
    adapters.inspector.db.drop_collection("fs.chunks")
    adapters.inspector.db.create_collection("fs.chunks")
    await adapters.store.ensure_schema()
    (chunks,) = adapters.inspector.db.list_collections(filter={"name": "fs.chunks"})
    assert "storageEngine" not in chunks["options"]
    assert "files_id_1_n_1" in adapters.inspector.db["fs.chunks"].index_information()
