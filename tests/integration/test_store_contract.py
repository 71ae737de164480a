"""The contract of `UploadStore`, `MediaReader` and `GarbageCollector`: the same tests for every store, on real databases.

GridFS through Motor and through PyMongo's asyncio API; files with SQLite and with PostgreSQL. What only one store has is tested in
test_gridfs_store and test_files_store.
"""

import asyncio
import functools
import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from services.common.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Gone,
    PreconditionFailed,
    TooManyRequests,
)
from services.common.media import MediaInfo, MediaName, sha256_etag
from services.common.store import limits
from services.common.store.errors import CorruptFile
from services.common.store.media_reader import FolderTotals, ListQuery, PageKey, Sort
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS, Preconditions
from services.common.store.upload_store import (
    Checkpoint,
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    StoredFile,
    UploadHandle,
)
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import (
    NAME,
    StoreAdapters,
    finished_upload,
    new_tus_upload,
    sha256_is,
)
from tests.support.store_inspectors import StoreInspector

pytestmark = pytest.mark.anyio


@pytest.fixture
def inspector(adapters: StoreAdapters) -> StoreInspector:
    return adapters.inspector


def upload_ids(inspector: StoreInspector) -> list[str]:
    document = inspector.only_document()
    return [f"{document['_id']}-{entry['id']}" for entry in document["uploads"]]


def entry_id(upload: UploadHandle) -> str:
    """The id of an upload as `upload_ids` lists it, without its secret."""
    return upload.upload_id.rpartition("-")[0]


async def read_outbox(adapters: StoreAdapters, inspector: StoreInspector) -> list[OutboxEvent]:
    return list(await adapters.keeper.list_unpublished(str(inspector.only_document()["_id"])))


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


async def test_blocks_are_hashed_once_and_their_offset_is_set_by_one_of_two(adapters: StoreAdapters) -> None:
    """A store that sets the offset behind a batch says so; otherwise the caller sets it."""
    data = os.urandom(2 * CHUNK_SIZE)
    upload = await adapters.store.create_upload(NAME, NewUpload(len(data), 60))
    hashed = hashlib.sha256()
    for number, end in enumerate((CHUNK_SIZE, 2 * CHUNK_SIZE)):
        block = data[end - CHUNK_SIZE : end]
        checkpoint = Checkpoint(end, len(data))
        expires_at = await adapters.store.write_blocks(
            upload, number, [block], functools.partial(hashed.update, block), checkpoint
        )
        if expires_at is None:
            expires_at = await adapters.store.set_offset(upload, end, b"", len(data), keep_lease=True)
        state = await adapters.store.get_durable_info(upload.upload_id)
        assert isinstance(state, InProgressUpload)
        assert (state.offset, state.length, state.expires_at) == (end, len(data), expires_at)
        assert hashed.hexdigest() == hashlib.sha256(data[:end]).hexdigest()
    await adapters.store.commit(upload, finished_upload(data))
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(upload, 1, [b"late"], checkpoint=Checkpoint(1, None))


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


@pytest.mark.parametrize("facts", [None, "null", '{"kind":"audio","tags":{"title":"$$ROOT.\\u0000"}}'])
async def test_media_facts_belong_to_the_version(adapters: StoreAdapters, facts: str | None) -> None:
    for media_facts_json in ('{"kind":"video"}', facts):
        upload = await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
        stored = replace(finished_upload(b""), media_facts_json=media_facts_json)
        event = await adapters.store.commit(upload, stored, NO_PRECONDITIONS)
        assert event.info.media_facts_json == media_facts_json
        assert await adapters.reader.find(NAME) == event.info
        assert (await adapters.reader.list_files(ListQuery())).files == [event.info]
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    assert deleted.info.media_facts_json == facts


async def test_prepare_is_idempotent(adapters: StoreAdapters) -> None:
    await adapters.store.ensure_schema()
    await adapters.store.check_health()
    free = await adapters.store.get_free_bytes()
    assert free is None or free > 0


async def test_the_name_belongs_to_the_first_commit(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    first, second = [await adapters.store.create_upload(NAME, NewUpload()) for _ in range(2)]
    await adapters.store.commit(second, finished_upload(b""))
    with pytest.raises(AlreadyExists):
        await adapters.store.commit(first, finished_upload(b""))
    with pytest.raises(AlreadyExists):
        await adapters.store.create_upload(NAME, NewUpload())
    await adapters.store.abort(first)
    assert inspector.only_document()["uploads"] == []


async def test_one_of_many_concurrent_commits_wins(adapters: StoreAdapters, inspector: StoreInspector) -> None:
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
    adapters: StoreAdapters, inspector: StoreInspector
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
    await adapters.collect_until_done(inspector)
    with pytest.raises(CorruptFile):
        await adapters.reader.read_blocks(old, 0, 0)
    assert inspector.count_chunks() == 1
    assert inspector.list_orphans() == []


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


@pytest.mark.parametrize("page_id", ["", "0" * 23, "$" * 24, "\u0660" * 24, "A" * 24, "0" * 25])
async def test_a_page_key_that_the_store_has_not_made_is_refused(adapters: StoreAdapters, page_id: str) -> None:
    with pytest.raises(BadRequest, match="page token"):
        await adapters.reader.list_files(ListQuery(after=PageKey(datetime(2026, 1, 1, tzinfo=UTC), page_id)))


async def test_acquiring_an_upload_fences_off_the_older_writer(
    adapters: StoreAdapters, inspector: StoreInspector
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
    assert [block async for block in adapters.store.iter_blocks(new, 1)] == [data[:CHUNK_SIZE]]
    await adapters.store.write_blocks(new, 1, [data[CHUNK_SIZE:]])
    with pytest.raises(Conflict):
        await adapters.store.write_blocks(old, 1, [b"late"])
    await adapters.store.commit(new, finished_upload(data))
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data


async def test_of_callers_that_have_seen_the_same_fencing_token_one_acquires(adapters: StoreAdapters) -> None:
    """It is not fenced off by the others; who has seen its token takes over, and who asks for nothing."""
    upload = await adapters.store.create_upload(NAME, NewUpload(0, 60))
    seen = upload.fencing_token
    calls = (adapters.store.acquire(upload.upload_id, seen) for _ in range(8))
    results = await asyncio.gather(*calls, return_exceptions=True)
    [(taken, _)] = [result for result in results if isinstance(result, tuple)]
    assert sum(isinstance(result, Conflict) for result in results) == 7
    await adapters.store.renew_lease(taken)
    with pytest.raises(Conflict):
        await adapters.store.acquire(upload.upload_id, seen)
    await adapters.store.renew_lease(taken)
    for token in (taken.fencing_token, None):
        again = await adapters.store.acquire(upload.upload_id, token)
        assert isinstance(again, tuple)
        taken = again[0]
    await adapters.store.commit(taken, finished_upload(b""))
    assert isinstance(await adapters.store.acquire(upload.upload_id, seen), FinishedUpload)


async def test_late_batch_of_an_older_writer_is_discarded(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """Whether it overlaps or lies past the end: the bytes of the fence's holder count."""
    old = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    taken = await adapters.store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    blocks = [bytes([number]) * CHUNK_SIZE for number in range(4)]
    for number in (1, 2, 7):
        inspector.write_late(old.store_key, number, b"late")
    await adapters.store.write_blocks(taken[0], 0, blocks)
    data = b"".join(blocks)
    inspector.write_late(old.store_key, 9, b"late")
    assert [block async for block in adapters.store.iter_blocks(taken[0], 4)] == blocks
    await adapters.store.commit(taken[0], finished_upload(data))
    assert inspector.read_file(inspector.only_document()["current"]["file"]) == data
    assert inspector.list_orphans() == []


async def test_commit_without_the_fence_changes_nothing(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """Although its view of the file is shorter than what a successor has written."""
    begun = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    holds = [await adapters.store.acquire(begun.upload_id) for _ in range(2)]
    old, new = (hold[0] for hold in holds if isinstance(hold, tuple))
    await adapters.store.write_blocks(new, 0, [b"x" * CHUNK_SIZE] * 2)
    with pytest.raises(Conflict):
        await adapters.store.commit(old, finished_upload(b"x" * CHUNK_SIZE))
    assert inspector.count_chunks() == 2
    assert await adapters.reader.find(NAME) is None


async def test_outcome_of_an_upload_is_remembered(adapters: StoreAdapters, inspector: StoreInspector) -> None:
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
    adapters: StoreAdapters, inspector: StoreInspector
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
    adapters: StoreAdapters, inspector: StoreInspector
) -> None:
    dead = await adapters.store.create_upload(MediaName("", "dead"), NewUpload())
    await adapters.store.write_blocks(dead, 0, [b"x" * CHUNK_SIZE] * 3)
    living = await adapters.store.create_upload(MediaName("", "living"), NewUpload())
    is_collected = False
    for _ in range(6):
        await asyncio.sleep(0.15)
        await adapters.store.renew_lease(living)
        await adapters.collect_once()
        if not is_collected and inspector.count_chunks() == 0:
            is_collected = True
            # It was stopped before its last insert: what comes now is swept by the second due.
            inspector.write_late(dead.store_key, 3, b"late")
    (left,) = [document for document in inspector.list_documents() if document["uploads"]]
    assert left["filename"] == "living"
    assert is_collected
    for late in (adapters.store.renew_lease(dead), adapters.store.commit(dead, finished_upload(b""))):
        with pytest.raises(Conflict):
            await late
    await adapters.store.abort(living)
    await adapters.collect_until_done(inspector)
    await adapters.collect_once()
    assert inspector.count_chunks() == 0
    assert inspector.list_documents() == []


async def test_two_concurrent_collectors_with_one_failing_anywhere(
    adapters: StoreAdapters, inspector: StoreInspector
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


async def test_deletion(adapters: StoreAdapters, inspector: StoreInspector) -> None:
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
    adapters: StoreAdapters, inspector: StoreInspector
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


async def test_the_revision_counts_the_changes_of_a_name(adapters: StoreAdapters, inspector: StoreInspector) -> None:
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
    adapters: StoreAdapters, inspector: StoreInspector, way: str
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


async def test_an_event_brings_the_unpublished_ones_before_it(
    adapters: StoreAdapters, inspector: StoreInspector
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
    assert [entry.get("told", False) for entry in inspector.only_document()["announce"]] == [True, False]
    newest = await adapters.store_event(b"three")
    assert [event.id for event in newest.earlier] == [deleted.id]
    await adapters.store.ack_event(created)
    await adapters.collect_once()
    assert [str(entry["id"]) for entry in inspector.only_document()["announce"]] == [deleted.id, newest.id]


async def test_old_events_are_listed_with_those_before_them(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """The database's clock may be set back between two changes."""
    for _ in range(3):
        await adapters.store_file(b"x")
    times = [datetime.now(UTC) + timedelta(hours=hours) for hours in (1, -1, 1)]
    for number, at in enumerate(times):
        inspector.set_event_time(number, at)
    assert [event.info.revision for event in await read_outbox(adapters, inspector)] == [1, 2]


async def test_a_full_outbox_says_what_it_leaves_out(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """The oldest events become one `socket.resync`, which keeps its id when it grows."""
    limit = limits.MAX_OUTBOX_EVENTS
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


async def test_unnamed_upload_gets_its_name_at_the_commit(adapters: StoreAdapters, inspector: StoreInspector) -> None:
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


async def test_a_missing_tail_is_reported(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store.set_offset(upload, 5000, b"x" * 5000, None, keep_lease=False)
    inspector.delete_all_bytes()
    with pytest.raises(Gone, match="corrupt"):
        await adapters.store.acquire(upload.upload_id)


async def test_idle_uploads_give_way_to_new_ones(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """A client's own ones without a byte where it has too many; then those of the client with the most."""
    store = adapters.store
    per_client, limit = limits.MAX_IDLE_UPLOADS_PER_CLIENT, limits.MAX_UPLOADS_PER_NAME
    own = [await store.create_upload(NAME, new_tus_upload("a")) for _ in range(per_client)]
    await store.set_offset(own[0], 1, b"x", None, keep_lease=False)
    newest = await store.create_upload(NAME, new_tus_upload("a"))
    assert upload_ids(inspector) == [entry_id(own[0]), *map(entry_id, own[2:]), entry_id(newest)]
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
        assert after[-1] == entry_id(upload)
        (evicted,) = set(before) - set(after)
        assert evicted == next(id_ for id_ in before if id_ in set(map(entry_id, (*own[2:], newest))))
    # Not the ones with bytes, where there are others, and never one with a writer.
    assert entry_id(own[0]) in upload_ids(inspector)


@pytest.mark.parametrize("offset", [0, 1])
async def test_a_request_that_stores_a_file_is_not_refused_for_idle_uploads(
    adapters: StoreAdapters, inspector: StoreInspector, offset: int
) -> None:
    """Not even where they are of as many clients, and have bytes."""
    store = adapters.store
    idle = []
    for number in range(limits.MAX_UPLOADS_PER_NAME):
        idle.append(await store.create_upload(NAME, new_tus_upload(f"client {number}")))
        await store.set_offset(idle[-1], offset, b"x" * offset, None, keep_lease=False)
    with pytest.raises(TooManyRequests) as refused:
        await store.create_upload(NAME, new_tus_upload("client 1"))
    assert int(refused.value.headers["retry-after"]) > 0
    await store.create_upload(NAME, new_tus_upload("another client"))
    await adapters.store_file(b"stored", expected=MUST_NOT_EXIST)
    assert (await adapters.reader.find(NAME)) is not None
    assert len(upload_ids(inspector)) == limits.MAX_UPLOADS_PER_NAME - 1


async def test_uploads_with_a_writer_are_not_evicted(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    store = adapters.store
    for _ in range(limits.MAX_UPLOADS_PER_NAME):
        await store.create_upload(NAME, NewUpload(client="a"))
    for new_upload in (NewUpload(client="b"), new_tus_upload("b"), new_tus_upload("a")):
        with pytest.raises(TooManyRequests):
            await store.create_upload(NAME, new_upload)
    assert inspector.only_document()["doomed"] == []


async def test_a_failed_precondition_evicts_nothing(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    store = adapters.store
    for _ in range(limits.MAX_IDLE_UPLOADS_PER_CLIENT):
        await store.create_upload(NAME, new_tus_upload("a"))
    await adapters.store_file(b"x")
    before = upload_ids(inspector)
    with pytest.raises(AlreadyExists):
        await store.create_upload(NAME, new_tus_upload("a"))
    assert upload_ids(inspector) == before


async def test_too_many_tombstones_reject_another_replacement(
    adapters: StoreAdapters, inspector: StoreInspector
) -> None:
    await adapters.store_file(b"x")
    inspector.add_tombstones(limits.MAX_TOMBSTONES)
    with pytest.raises(TooManyRequests):
        await adapters.store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    assert (await adapters.reader.find(NAME)) is not None


@pytest.mark.parametrize("address", ["", "-", "x-y", "a" * 24, "{}-{}", "a" * 24 + "-"])
async def test_unknown_upload_id_is_not_found(adapters: StoreAdapters, address: str) -> None:
    assert await adapters.store.get_durable_info(address) is None
    assert await adapters.store.acquire(address) is None
    assert adapters.store.upload_age(address) is None


async def test_a_tail_is_durable_and_replaced_by_the_next_one(adapters: StoreAdapters) -> None:
    """A writer that was overtaken does not replace the tail of its successor. Truncation keeps what is durable."""
    store = adapters.store
    data = os.urandom(2 * CHUNK_SIZE)
    old = await store.create_upload(NAME, new_tus_upload("a"))
    for length in (5000, 6000, 10, 7000):
        await store.set_offset(old, length, data[:length], None, keep_lease=length % 100 == 0)
    taken = await store.acquire(old.upload_id)
    assert isinstance(taken, tuple)
    assert (taken[1].offset, taken[1].tail) == (7000, data[:7000])
    await store.set_offset(taken[0], 8000, data[:8000], None, keep_lease=False)
    with pytest.raises(Conflict):
        await store.set_offset(old, 9000, data[:9000][::-1], None, keep_lease=False)
    with suppress(Conflict):  # or its bytes are replaced by those of its successor
        await store.write_blocks(old, 0, [data[CHUNK_SIZE:]])
    # Bytes that are not verified yet, and are taken back.
    again = await store.acquire(old.upload_id)
    assert isinstance(again, tuple)
    await store.write_blocks(again[0], 0, [data[:CHUNK_SIZE], data[CHUNK_SIZE:]])
    await store.truncate_blocks(again[0], 0)
    third = await store.acquire(old.upload_id)
    assert isinstance(third, tuple)
    assert (third[1].offset, third[1].tail) == (8000, data[:8000])
    await store.write_blocks(third[0], 0, [data[:CHUNK_SIZE], data[CHUNK_SIZE:]])
    await store.commit(third[0], finished_upload(data))
    info = await adapters.reader.find(NAME)
    assert info is not None
    assert b"".join(await adapters.reader.read_blocks(info, 0, 1)) == data


async def test_the_metadata_of_unfinished_uploads_is_bounded(
    adapters: StoreAdapters, inspector: StoreInspector
) -> None:
    store = adapters.store
    small = await store.create_upload(NAME, new_tus_upload("small", k="v"))
    for number in range(40):
        with suppress(TooManyRequests):
            await store.create_upload(NAME, new_tus_upload(f"client {number % 20}", k="v" * 24_000))
        assert len(upload_ids(inspector)) <= 1 + limits.MAX_FACTS_BYTES // 24_000
    await store.create_upload(NAME, new_tus_upload("other", k="v" * 2000))
    assert entry_id(small) in upload_ids(inspector)
    await adapters.store_file(b"stored")


async def test_a_clock_that_is_set_back_revives_nothing(adapters: StoreAdapters, inspector: StoreInspector) -> None:
    """What has expired and was collected stays so, whatever the clock says later: tokens decide, not times."""
    expired = await adapters.store.create_upload(NAME, NewUpload(9, 60))
    inspector.expire_uploads()
    assert await adapters.store.get_durable_info(expired.upload_id) is None
    await adapters.collect_until_done(inspector)
    assert await adapters.store.acquire(expired.upload_id) is None
    with pytest.raises(Conflict):
        await adapters.store.renew_lease(expired)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "grown"])
async def test_a_file_that_was_changed_behind_the_store_is_corrupt(
    adapters: StoreAdapters, inspector: StoreInspector, damage: str
) -> None:
    """Never wrong bytes: the first block that is not there raises, and those before it may be read."""
    data = os.urandom(2 * CHUNK_SIZE + 7)
    await adapters.store_file(data)
    info = await adapters.reader.find(NAME)
    assert info is not None
    match damage:
        case "deleted":
            inspector.delete_blocks(info.file_id)
        case "truncated":
            inspector.delete_blocks(info.file_id, 1)
        case "grown":
            inspector.damage_block(info.file_id, 2)
    with pytest.raises(CorruptFile):
        await adapters.reader.read_blocks(info, 2, 2)
    try:
        blocks = await adapters.reader.read_blocks(info, 0, 2)
    except CorruptFile:
        blocks = []
    assert len(blocks) < 3
    assert data.startswith(b"".join(blocks))


async def test_lists_are_ordered_and_filtered(adapters: StoreAdapters) -> None:
    names = [MediaName(folder, f"{number}-Straße.mp4") for number, folder in enumerate(("", "b", "a/x", "b", "ä"))]
    for name in names:
        await adapters.store_file(b"x", name)
        await asyncio.sleep(0.002)
    await adapters.store.create_upload(MediaName("c", "begun"), NewUpload())
    reader = adapters.reader
    page = await reader.list_files(ListQuery(limit=3))
    assert [MediaName(one.folder, one.filename) for one in page.files] == names[:1:-1]
    rest = await reader.list_files(ListQuery(limit=3, after=page.next_key))
    assert [MediaName(one.folder, one.filename) for one in rest.files] == names[1::-1]
    assert rest.next_key is None
    assert [one.filename for one in (await reader.list_files(ListQuery(folder="b"))).files] == [
        "3-Straße.mp4",
        "1-Straße.mp4",
    ]
    for needle, count in (("sTRAßE", 5), ("STRASSE", 0), ("2-", 1), ("%", 0), ("_", 0), (".MP4", 5), ("\\", 0)):
        assert len((await reader.list_files(ListQuery(filename_contains=needle))).files) == count, needle
    assert await reader.list_folders(None, 10) == ["", "a/x", "b", "ä"]
    assert await reader.list_folders("", 2) == ["a/x", "b"]
    assert await reader.list_folders("ä", 2) == []


@pytest.mark.parametrize("sort", ["time", "name", "size"])
@pytest.mark.parametrize("descending", [True, False])
async def test_every_order_is_exact_page_by_page(adapters: StoreAdapters, sort: Sort, *, descending: bool) -> None:
    """Files of equal names, lengths and, as they are stored at once, times are told apart by their ids."""
    names = [MediaName(folder, name) for folder in ("a", "b") for name in ("x", "X", "y\u00e4", "\U0001f600", "x.mp4")]
    await asyncio.gather(*(adapters.store_file(b"x" * (len(name.filename) % 2), name) for name in names))
    await adapters.store_file(b"deleted", MediaName("a", "deleted"))
    await adapters.store.delete(MediaName("a", "deleted"))

    def key(info: MediaInfo) -> tuple[Any, str]:
        values = {"time": info.uploaded_at, "name": info.filename.encode(), "size": info.length}
        return values[sort], info.id

    for folder, needle in ((None, ""), ("a", ""), (None, "X"), ("b", "x")):
        found: list[MediaInfo] = []
        wanted = ListQuery(folder, needle, limit=2, sort=sort, descending=descending)
        while True:
            page = await adapters.reader.list_files(wanted)
            found += page.files
            if page.next_key is None:
                break
            assert page.next_key.sort == sort
            wanted = replace(wanted, after=page.next_key)
        expected = {n for n in names if folder in {None, n.folder} and needle.lower() in n.filename.lower()}
        assert {MediaName(info.folder, info.filename) for info in found} == expected
        assert len(found) == len(expected)
        assert found == sorted(found, key=key, reverse=descending)


async def test_a_search_in_any_order_ends_at_its_limit(
    adapters: StoreAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("gridfs", "files"):
        monkeypatch.setattr(f"services.common.store.{module}.media_reader.SEARCH_SCAN_LIMIT", 2)
    for name in ("a", "b1", "c", "d1", "e"):
        await adapters.store_file(name.encode() * len(name), MediaName("f", name))
    for sort in get_args(Sort):
        for descending in (False, True):
            wanted: ListQuery | None = ListQuery(filename_contains="1", sort=sort, descending=descending)
            found: list[str] = []
            while wanted is not None:
                page = await adapters.reader.list_files(wanted)
                found += [info.filename for info in page.files]
                wanted = replace(wanted, after=page.next_key) if page.next_key else None
            assert found == (["d1", "b1"] if descending else ["b1", "d1"])


async def test_the_key_of_another_order_is_refused(adapters: StoreAdapters) -> None:
    key = PageKey(5, "0" * 24)
    assert (await adapters.reader.list_files(ListQuery(after=key, sort="size"))).files == []
    for sort in ("name", "time"):
        with pytest.raises(BadRequest):
            await adapters.reader.list_files(ListQuery(after=key, sort=sort))


async def test_folders_are_added_up(adapters: StoreAdapters) -> None:
    for folder, name in (("", "a"), ("b", "a"), ("b", "b"), ("b/c", "a")):
        await adapters.store_file(b"12345", MediaName(folder, name))
    await adapters.store.delete(MediaName("b/c", "a"))
    assert await adapters.reader.sum_folders(["b", "", "b/c", "none"]) == [
        FolderTotals("b", 2, 10),
        FolderTotals("", 1, 5),
        FolderTotals("b/c", 0, 0),
        FolderTotals("none", 0, 0),
    ]
    assert await adapters.reader.sum_folders([]) == []


async def test_names_of_any_characters_are_stored_as_they_are(adapters: StoreAdapters) -> None:
    for filename in ("😀.mp4", "a'b\"c", "%_", "$where", "ﬀ", "İ", "e\u0301"):
        name = MediaName("ordner", filename)
        await adapters.store_file(filename.encode(), name)
        found = await adapters.reader.find(name)
        assert found is not None
        assert (found.folder, found.filename) == ("ordner", filename)
        page = await adapters.reader.list_files(ListQuery(filename_contains=filename))
        assert filename in {one.filename for one in page.files}
