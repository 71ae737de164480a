"""What `UploadStore` and `Keeper` promise, on a real mongod, with either driver."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from services.common.errors import AlreadyExists, Conflict, PreconditionFailed, ServiceUnavailable, TooManyRequests
from services.common.media import MediaName
from services.common.store.gridfs import commit, document_updates, documents, indexes
from services.common.store.gridfs.chunks import INSERT_RETRY_SECONDS, ChunkStore
from services.common.store.gridfs.commit import Committer
from services.common.store.gridfs.documents import StoreTimings
from services.common.store.gridfs.garbage_collector import GridFSGarbageCollector
from services.common.store.gridfs.media_reader import GridFSMediaReader
from services.common.store.gridfs.mongo import open_mongo_database
from services.common.store.gridfs.upload_store import GridFSUploadStore
from services.common.store.media_reader import CorruptFile
from services.common.store.upload_store import (
    MUST_NOT_EXIST,
    NO_PRECONDITIONS,
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    Preconditions,
    StoredFile,
    UploadHandle,
)
from tests.support.databases import Server
from tests.support.upload_client import CHUNK, Store, opened

pytestmark = pytest.mark.anyio
NAME = MediaName("f", "n")
TIMES = StoreTimings(lease_ttl_ms=400, tombstone_ttl_ms=300, second_purge_after_ms=1200, outbox_retry_after_ms=0)


class Both:
    """A store and its keeper, as two replicas would have them."""

    def __init__(self, mongo: Any) -> None:
        self.mongo = mongo
        self.store = GridFSUploadStore(mongo, TIMES)
        self.keeper = GridFSGarbageCollector(mongo, TIMES)
        self.reader = GridFSMediaReader(mongo)

    async def round(self) -> None:
        async for media in self.keeper.list_due():
            await self.keeper.collect(media)

    async def settle(self, seen: Store) -> None:
        """Rounds until nothing is due any more."""
        for _ in range(100):
            await self.round()
            if all(not document["doomed"] and not document["uploads"] for document in seen.media()):
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"never settled: {seen.media()}")

    async def stored(
        self, data: bytes, name: MediaName = NAME, expected: Preconditions = NO_PRECONDITIONS
    ) -> UploadHandle:
        upload = await self.store.create_upload(name, NewUpload(), expected)
        blocks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        if blocks:
            await self.store.write_blocks(upload, 0, blocks)
        await self.store.commit(upload, written(data), expected)
        return upload


def written(data: bytes) -> StoredFile:
    return StoredFile(len(data), "text/plain", hashlib.sha256(data).hexdigest())


def is_(data: bytes) -> Preconditions:
    return Preconditions(sha256_in=frozenset({hashlib.sha256(data).hexdigest()}))


@pytest.fixture(params=["motor", "pymongo"])
async def both(request: pytest.FixtureRequest, mongod: Server, database: str) -> AsyncIterator[Both]:
    mongo = open_mongo_database(mongod.uri, database, request.param)
    both = Both(mongo)
    await both.store.ensure_schema()
    yield both
    await mongo.aclose()


@pytest.fixture
def seen(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


async def test_a_file_is_seen_after_its_commit_and_not_before(both: Both) -> None:
    data = os.urandom(CHUNK + 5)
    upload = await both.store.create_upload(NAME, NewUpload())
    await both.store.write_blocks(upload, 0, [data[:CHUNK]])
    await both.store.write_blocks(upload, 1, [data[CHUNK:]])
    assert await both.reader.find(NAME) is None
    announcement = await both.store.commit(upload, written(data))
    assert announcement.type == "file.created"
    info = await both.reader.find(NAME)
    assert info == announcement.info
    assert info is not None
    assert b"".join(await both.reader.read_blocks(info, 0, 1)) == data


async def test_prepare_may_be_done_twice(both: Both) -> None:
    await both.store.ensure_schema()
    await both.store.check_health()
    free = await both.store.get_free_bytes()
    assert free is None or free > 0


async def test_the_name_belongs_to_the_first_commit(both: Both, seen: Store) -> None:
    first, second = [await both.store.create_upload(NAME, NewUpload()) for _ in range(2)]
    await both.store.commit(second, written(b""))
    with pytest.raises(AlreadyExists):
        await both.store.commit(first, written(b""))
    with pytest.raises(AlreadyExists):
        await both.store.create_upload(NAME, NewUpload())
    await both.store.abort(first)
    assert seen.one()["uploads"] == []


async def test_what_finds_and_changes_names_the_shard_key(both: Both, seen: Store) -> None:
    """A mongos before 7.1 refuses it otherwise, also where `_id` is given. The profiler says what the server was asked."""
    await both.mongo.database.command("profile", 2)
    for name in (NAME, None):
        upload = await both.store.create_upload(name, NewUpload(ttl=60))
        await both.store.get_durable_info(upload.upload_id)
        taken = await both.store.acquire(upload.upload_id)
        assert isinstance(taken, tuple)
        upload = taken[0]
        await both.store.write_blocks(upload, 0, [b"x"])
        await both.store.set_offset(upload, 0, b"x", 1, keep_lease=True)
        if name is None:
            upload = await both.store.assign_name(upload, MediaName("g", "late"))
        await both.store.commit(upload, written(b"x"))
    await both.store.delete(NAME)
    # What is done where an answer was lost.
    place = documents.document_filter(ObjectId(upload.media_id), upload.name, ObjectId(upload.record_id))
    await both.store._committer._read_durable(place)
    await both.mongo.database.command("profile", 0)
    asked = list(seen.db["system.profile"].find({"command.findAndModify": "media"}))
    assert len(asked) >= 2 * 5 + 3
    assert [one for one in asked if not {"folder", "filename"} <= one["command"]["query"].keys()] == []


async def test_of_many_racers_one_wins(both: Both, seen: Store) -> None:
    async def race(number: int) -> str:
        try:
            await both.stored(bytes([number]) * 9, expected=MUST_NOT_EXIST)
        except AlreadyExists:
            return "lost"
        return "won"

    results = await asyncio.gather(*(race(number) for number in range(30)))
    assert sorted(results) == ["lost"] * 29 + ["won"]
    assert len(seen.media()) == 1


async def test_replacing_is_one_step_and_the_old_bytes_stay_for_a_while(both: Both, seen: Store) -> None:
    await both.stored(b"one")
    old = await both.reader.find(NAME)
    upload = await both.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    await both.store.write_blocks(upload, 0, [b"second"])
    announcement = await both.store.commit(upload, written(b"second"), NO_PRECONDITIONS)
    new = await both.reader.find(NAME)
    assert announcement.type == "file.replaced"
    assert old is not None
    assert new is not None
    assert (old.id, new.length) == (new.id, 6)
    assert await both.reader.read_blocks(old, 0, 0) == [b"one"]
    assert set(seen.one()["current"]) == {"file", "length", "content_type", "sha256", "uploaded_at"}
    await both.settle(seen)
    with pytest.raises(CorruptFile):
        await both.reader.read_blocks(old, 0, 0)
    assert seen.chunks() == 1
    assert seen.db["fs.files"].count_documents({}) == 1


async def test_what_is_expected_is_looked_at_when_it_counts(both: Both) -> None:
    """Early where it can be, and once more in the commit itself."""
    await both.stored(b"one")
    for wrong in (is_(b"x"), Preconditions(sha256_not_in=frozenset({hashlib.sha256(b"one").hexdigest()}))):
        with pytest.raises(PreconditionFailed):
            await both.store.create_upload(NAME, NewUpload(), wrong)
    with pytest.raises(PreconditionFailed):
        await both.store.create_upload(MediaName("", "new"), NewUpload(), Preconditions(must_exist=True))
    upload = await both.store.create_upload(NAME, NewUpload(), is_(b"one"))
    await both.stored(b"two")
    with pytest.raises(PreconditionFailed):
        await both.store.commit(upload, written(b""), is_(b"one"))
    await both.store.abort(upload)
    await both.stored(b"three", expected=is_(b"two"))


async def test_who_takes_over_shuts_the_older_one_out(both: Both, seen: Store) -> None:
    """No write, no move, no renewal, no commit and no clean-up by an older hold."""
    data = os.urandom(CHUNK + 10)
    old = await both.store.create_upload(NAME, NewUpload(len(data), 60, {"k": "$v"}))
    await both.store.write_blocks(old, 0, [data[:CHUNK]])
    await both.store.set_offset(old, CHUNK + 3, data[CHUNK : CHUNK + 3], len(data), keep_lease=True)
    taken = await both.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    new, state = taken
    assert (state.offset, state.tail, state.length, state.metadata) == (
        CHUNK + 3,
        data[CHUNK:][:3],
        len(data),
        {"k": "$v"},
    )
    for late in (
        both.store.renew_lease(old),
        both.store.set_offset(old, 1, b"", None, keep_lease=True),
        both.store.commit(old, written(data)),
        both.store.truncate_blocks(old, 0),
    ):
        with pytest.raises(Conflict):
            await late
    await both.store.abort(old)
    assert seen.chunks() == 1
    await both.store.write_blocks(new, 1, [data[CHUNK:]])
    with pytest.raises(Conflict):
        await both.store.write_blocks(old, 1, [b"late"])
    await both.store.commit(new, written(data))
    assert seen.bytes_in(seen.one()["current"]["file"]) == data


async def test_a_late_batch_of_an_older_writer_gives_way(both: Both, seen: Store) -> None:
    """It may lie in the way, or past the end: the holder's bytes count."""
    old = await both.store.create_upload(NAME, NewUpload(None, 60))
    taken = await both.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    blocks = [bytes([number]) * CHUNK for number in range(4)]
    late = [{"files_id": ObjectId(old.file_id), "n": n, "data": b"late"} for n in (1, 2, 7)]
    seen.db["fs.chunks"].insert_many(late)
    await both.store.write_blocks(taken[0], 0, blocks)
    data = b"".join(blocks)
    seen.db["fs.chunks"].insert_one({"files_id": ObjectId(old.file_id), "n": 9, "data": b"late"})
    assert [block async for block in both.store.iter_blocks(taken[0], 4)] == blocks
    await both.store.commit(taken[0], written(data))
    assert seen.bytes_in(seen.one()["current"]["file"]) == data
    assert seen.orphans() == []


class Stopped(GridFSUploadStore):
    """A store in a process that is stopped just after it has looked at its fence: `meanwhile` happens before it goes on."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def renew_lease(self, upload: UploadHandle) -> None:
        await super().renew_lease(upload)
        if (doing := self.meanwhile) is not None:
            self.meanwhile = None
            await doing()


@pytest.mark.parametrize("way", ["truncate", "append", "commit"])
async def test_who_looked_at_the_fence_too_early_deletes_nothing_of_a_successor(
    both: Both, seen: Store, way: str
) -> None:
    """It holds the fence when it looks, is stopped, and wakes up when another has written and shown more."""
    stopped = Stopped(both.mongo, TIMES)
    blocks = [bytes([number]) * CHUNK for number in range(3)]
    begun = await both.store.create_upload(NAME, NewUpload(None, 60))
    taken = await both.store.acquire(begun.upload_id)
    assert isinstance(taken, tuple)
    old = taken[0]
    await both.store.write_blocks(old, 0, [blocks[0], b"left by the older one"])
    await both.store.set_offset(old, CHUNK, b"", None, keep_lease=True)

    async def succeed() -> None:
        taken = await both.store.acquire(old.upload_id)
        assert isinstance(taken, tuple)
        await both.store.write_blocks(taken[0], 1, blocks[1:])
        await both.store.set_offset(taken[0], 3 * CHUNK, b"", None, keep_lease=False)

    stopped.meanwhile = succeed
    with suppress(Conflict):
        match way:
            case "truncate":
                await stopped.truncate_blocks(old, 1)
            case "append":
                await stopped.write_blocks(old, 1, [b"late"])
            case "commit":
                await stopped.commit(old, written(blocks[0]))
    assert stopped.meanwhile is None
    assert seen.bytes_in(ObjectId(old.file_id)) == b"".join(blocks)
    assert seen.one()["current"] is None


async def test_a_commit_without_the_fence_changes_nothing(both: Both, seen: Store) -> None:
    """Though it believes that the file is shorter than what a successor has written."""
    begun = await both.store.create_upload(NAME, NewUpload(None, 60))
    holds = [await both.store.acquire(begun.upload_id) for _ in range(2)]
    old, new = (hold[0] for hold in holds if isinstance(hold, tuple))
    await both.store.write_blocks(new, 0, [b"x" * CHUNK] * 2)
    with pytest.raises(Conflict):
        await both.store.commit(old, written(b"x" * CHUNK))
    assert seen.chunks() == 2
    assert seen.db["fs.files"].count_documents({}) == 0


async def test_what_became_of_an_upload_is_remembered(both: Both, seen: Store) -> None:
    upload = await both.store.create_upload(NAME, NewUpload(0, 0.6))
    rival = await both.store.create_upload(NAME, NewUpload(0, 0.6))
    assert isinstance(await both.store.get_durable_info(upload.upload_id), InProgressUpload)
    await both.store.commit(upload, written(b""))
    await both.store.abort(rival, name_taken=True)
    ends = [await both.store.get_durable_info(one.upload_id) for one in (upload, rival)]
    assert all(isinstance(end, FinishedUpload) for end in ends)
    assert [end.outcome for end in ends if isinstance(end, FinishedUpload)] == ["stored", "lost"]
    assert isinstance(await both.store.acquire(upload.upload_id), FinishedUpload)
    await asyncio.sleep(0.7)
    await both.round()
    assert seen.one()["ended"] == []


async def test_expiry_is_by_the_last_byte_and_not_by_a_renewal(both: Both, seen: Store) -> None:
    """A lease of 0.4 s that is renewed 0.5 s before the expiry does not move it."""
    upload = await both.store.create_upload(NAME, NewUpload(9, 0.9))
    await asyncio.sleep(0.5)
    await both.store.set_offset(upload, 1, b"x", 9, keep_lease=True)
    moved = await both.store.get_durable_info(upload.upload_id)
    await both.store.renew_lease(upload)
    await asyncio.sleep(0.5)
    later = await both.store.get_durable_info(upload.upload_id)
    assert isinstance(moved, InProgressUpload)
    assert isinstance(later, InProgressUpload)
    assert later.expires_at == moved.expires_at
    await asyncio.sleep(0.5)
    assert await both.store.get_durable_info(upload.upload_id) is None
    assert await both.store.acquire(upload.upload_id) is None
    await both.settle(seen)
    assert seen.media() == []


async def test_a_dead_writer_holds_no_bytes_that_are_worth_waiting_for(both: Both) -> None:
    upload = await both.store.create_upload(NAME, NewUpload(9, 60))
    await both.store.set_offset(upload, 1, b"x", 9, keep_lease=True)
    seen = await both.store.get_info(upload.upload_id)
    assert isinstance(seen, InProgressUpload)
    assert seen.write_in_progress
    async with asyncio.timeout(5):
        while isinstance(seen, InProgressUpload) and seen.write_in_progress:
            await asyncio.sleep(0.05)
            seen = await both.store.get_durable_info(upload.upload_id)
    assert isinstance(seen, InProgressUpload)


async def test_a_dead_writer_is_reaped_and_a_living_one_is_not(both: Both, seen: Store) -> None:
    dead = await both.store.create_upload(MediaName("", "dead"), NewUpload())
    await both.store.write_blocks(dead, 0, [b"x" * CHUNK] * 3)
    living = await both.store.create_upload(MediaName("", "living"), NewUpload())
    for _ in range(6):
        await asyncio.sleep(0.15)
        await both.store.renew_lease(living)
        await both.round()
    (left,) = [document for document in seen.media() if document["uploads"]]
    assert left["filename"] == "living"
    assert seen.chunks() == 0
    for late in (both.store.renew_lease(dead), both.store.commit(dead, written(b""))):
        with pytest.raises(Conflict):
            await late
    # It was stopped before its last insert: what comes now is swept by the second due.
    seen.db["fs.chunks"].insert_one({"files_id": ObjectId(dead.file_id), "n": 3, "data": b"late"})
    await both.store.abort(living)
    await both.settle(seen)
    await both.round()
    assert seen.chunks() == 0
    assert seen.media() == []


async def test_two_keepers_at_once_and_one_that_stops_anywhere(both: Both, seen: Store) -> None:
    """The end is the same: nothing left but what is current."""
    for number in range(12):
        name = MediaName("", str(number))
        await both.stored(b"old", name)
        await both.stored(b"new", name)
        await both.store.create_upload(name, NewUpload(), NO_PRECONDITIONS)
    await asyncio.sleep(0.5)
    for seconds in (0.005, 0.01, 0.02, 0.04):
        task = asyncio.create_task(both.round())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait({task})
    for _ in range(4):
        await asyncio.gather(both.round(), both.round())
        await asyncio.sleep(0.2)
    await both.settle(seen)
    assert seen.chunks() == 12
    assert seen.orphans() == []
    assert all(document["current"]["length"] == 3 for document in seen.media())


async def test_the_second_sweep_is_not_forgotten_by_the_slower_keeper(both: Both, seen: Store) -> None:
    upload = await both.store.create_upload(NAME, NewUpload())
    await asyncio.sleep(0.45)
    await both.round()
    (version,) = seen.one()["doomed"]
    assert version["late"] is False
    # A slower one's last update, as it would come now.
    await both.mongo.collection("media").update_one({}, document_updates.mark_purged(ObjectId(upload.file_id), TIMES))
    assert seen.one()["doomed"] == [version]


async def test_deleting(both: Both, seen: Store) -> None:
    assert await both.store.delete(NAME) is None
    await both.stored(b"one")
    with pytest.raises(PreconditionFailed):
        await both.store.delete(NAME, is_(b"two"))
    announcement = await both.store.delete(NAME, is_(b"one"))
    assert announcement is not None
    assert (announcement.type, announcement.info.length) == ("file.deleted", 3)
    assert await both.reader.find(NAME) is None
    assert await both.store.delete(NAME) is None
    (media,) = [media async for media in both.keeper.list_due()]
    assert [note.type for note in await both.keeper.list_unpublished(media)] == ["file.created", "file.deleted"]
    for note in await both.keeper.list_unpublished(media):
        await both.store.ack_event(note)
    await both.settle(seen)
    assert seen.media() == []
    assert seen.chunks() == 0


class Late(Committer):
    """The first change is still on its way when its sender gives up, and arrives behind the first look."""

    first: tuple[Any, Any] | None = None
    sent = False

    async def _find_and_update(self, query: Any, update: Any) -> Any:
        if not self.sent:
            self.sent, self.first = True, (query, update)
            raise ServiceUnavailable("no answer")
        found = await super()._find_and_update(query, update)
        if self.first is not None:
            first, self.first = self.first, None
            await super()._find_and_update(*first)
        return found


async def test_a_deletion_that_arrives_late_is_no_refusal(both: Both) -> None:
    await both.stored(b"one")
    done = await Late(both.mongo, TIMES).delete(NAME, NO_PRECONDITIONS)
    assert done is not None
    assert done.type == "file.deleted"
    assert await both.reader.find(NAME) is None


async def test_a_commit_that_arrives_late_is_made_once(both: Both) -> None:
    """Its sender raises the fence before it tries again: the late one finds nothing, or has been first and is found."""
    upload = await both.store.create_upload(NAME, NewUpload())
    await both.store.write_blocks(upload, 0, [b"one"])
    done = await Late(both.mongo, TIMES).commit(upload, written(b"one"), MUST_NOT_EXIST)
    assert done is not None
    assert done.type == "file.created"
    found = await both.reader.find(NAME)
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"one").hexdigest()


class Mute(Committer):
    """Changes arrive, and the first answer is lost: nobody says anything."""

    asked = 0

    async def _find_and_update(self, query: Any, update: Any) -> Any:
        self.asked += 1
        found = await super()._find_and_update(query, update)
        if self.asked == 1:
            await asyncio.sleep(60)
        return found


async def test_a_commit_that_nobody_answers_is_asked_after(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "ATTEMPT_TIMEOUT_SECONDS", 0.3)
    upload = await both.store.create_upload(NAME, NewUpload())
    await both.store.write_blocks(upload, 0, [b"one"])
    done = await Mute(both.mongo, TIMES).commit(upload, written(b"one"), MUST_NOT_EXIST)
    assert done is not None
    assert done.type == "file.created"


async def test_an_insert_whose_answer_was_lost_late_is_repeated(both: Both, seen: Store) -> None:
    """The holder of the fence finds its own chunks, however long ago it began."""
    both.store._chunk_store = Slow(both.mongo)
    upload = await both.store.create_upload(NAME, NewUpload())
    await both.store.write_blocks(upload, 0, [b"one"])
    assert seen.chunks() == 1


class Slow(ChunkStore):
    """The first insert takes longer than another one may be tried, and its answer is lost: the driver's second one finds it."""

    slow = True

    async def _insert_many(self, chunks: list[dict[str, Any]]) -> None:
        await super()._insert_many(chunks)
        if self.slow:
            self.slow = False
            await asyncio.sleep(INSERT_RETRY_SECONDS + 0.1)
            raise Conflict("the upload was taken over by another writer")


async def test_a_nameless_upload_gets_its_name_at_the_end(both: Both, seen: Store) -> None:
    upload = await both.store.create_upload(None, NewUpload())
    await both.store.write_blocks(upload, 0, [b"abc"])
    named = await both.store.assign_name(upload, NAME)
    await both.store.commit(named, written(b"abc"))
    assert seen.one()["folder"] == "f"
    other = await both.store.create_upload(None, NewUpload())
    with pytest.raises(AlreadyExists):
        await both.store.assign_name(other, NAME)
    await both.store.abort(other)
    assert len(seen.media()) == 1


async def test_the_document_stays_small(both: Both) -> None:
    uploads = [await both.store.create_upload(NAME, NewUpload(None, 60)) for _ in range(documents.MAX_UPLOADS_PER_NAME)]
    with pytest.raises(TooManyRequests):
        await both.store.create_upload(NAME, NewUpload(None, 60))
    tail = os.urandom(CHUNK - 1)
    fitting = documents.MAX_TAIL_BYTES // len(tail)
    for upload in uploads[:fitting]:
        await both.store.set_offset(upload, len(tail), tail, None, keep_lease=False)
    with pytest.raises(TooManyRequests):
        await both.store.set_offset(uploads[fitting], len(tail), tail, None, keep_lease=False)
    await both.store.set_offset(uploads[0], len(tail), tail[::-1], None, keep_lease=False)


async def test_a_name_that_is_replaced_too_often(both: Both, seen: Store) -> None:
    await both.stored(b"x")
    waiting = [
        {"file": ObjectId(), "due": datetime.now(UTC) + timedelta(hours=1), "late": False}
    ] * documents.MAX_TOMBSTONES
    seen.db["media"].update_one({}, {"$set": {"doomed": waiting}})
    with pytest.raises(TooManyRequests):
        await both.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    assert (await both.reader.find(NAME)) is not None


async def test_strays_are_a_day_old_and_nobody_s(both: Both, seen: Store) -> None:
    old = datetime.now(UTC) - timedelta(hours=25)
    stray, foreign = ObjectId.from_datetime(old), ObjectId.from_datetime(old + timedelta(seconds=1))
    young = ObjectId()
    seen.db["fs.chunks"].insert_many({"files_id": file, "n": 0, "data": b""} for file in (stray, foreign, young))
    seen.db["fs.files"].insert_one({"_id": foreign, "length": 0})
    await both.stored(b"ours")
    assert await both.keeper.delete_orphans() == 1
    assert await both.keeper.delete_orphans() == 0
    assert seen.db["fs.chunks"].count_documents({"files_id": stray}) == 0
    assert seen.chunks() == 3


@pytest.mark.parametrize("address", ["", "-", "x-y", "a" * 24, "{}-{}", "a" * 24 + "-"])
async def test_an_address_that_is_nobody_s(both: Both, address: str) -> None:
    assert await both.store.get_durable_info(address) is None
    assert await both.store.acquire(address) is None
    assert both.store.upload_age(address) is None


async def test_chunks_are_stored_as_they_are(both: Both, seen: Store) -> None:
    """Media are packed already. Where the collection is there, whoever made it has decided."""
    (chunks,) = seen.db.list_collections(filter={"name": "fs.chunks"})
    assert chunks["options"]["storageEngine"] == indexes.UNCOMPRESSED
    seen.db.drop_collection("fs.chunks")
    seen.db.create_collection("fs.chunks")
    await both.store.ensure_schema()
    (chunks,) = seen.db.list_collections(filter={"name": "fs.chunks"})
    assert "storageEngine" not in chunks["options"]
    assert "files_id_1_n_1" in seen.db["fs.chunks"].index_information()
