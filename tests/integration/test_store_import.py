"""The contract of `FileImporter`, over every store."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson import ObjectId

from services.common.errors import BadRequest, Conflict
from services.common.media import MediaInfo, MediaName, Poster
from services.common.settings import StoreSettings
from services.common.store import file_importer
from services.common.store.errors import CorruptFile
from services.common.store.factory import MediaStore
from services.common.store.media_reader import ListQuery
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
)
from tests.support.opened_stores import STORE_KINDS, opened_store, with_stores
from tests.support.sizes import CHUNK_SIZE
from tests.support.waiting import eventually_async

pytestmark = [pytest.mark.anyio, with_stores(*((kind,) for kind in STORE_KINDS))]
LONG_AGO = datetime(2019, 5, 17, 3, 4, 5, 678000, UTC)
TIMINGS = StoreTimings(lease_ttl=0.4, tombstone_ttl=0.3, second_purge_after=0.3, outbox_retry_after=0)


@pytest.fixture
def settings(stores: list[StoreSettings]) -> StoreSettings:
    return stores[0]


@pytest.fixture
async def store(settings: StoreSettings) -> AsyncIterator[MediaStore]:
    async with opened_store(settings, TIMINGS) as opened:
        yield opened


def describe(data: bytes, filename: str = "film.mp4", revision: int = 3, **changes: object) -> MediaInfo:
    """A file as a store of years ago describes it."""
    info = MediaInfo(
        id=new_id(),
        file_id=new_id(),
        folder="f/é",
        filename=filename,
        length=len(data),
        content_type="video/mp4",
        sha256=hashlib.sha256(data).hexdigest(),
        uploaded_at=LONG_AGO,
        stored_etag=f'"sha256-{hashlib.sha256(data).hexdigest()}"',
        metadata_json='{"$set":{"a.b":[1,null]},"$$NOW":"","":"\\u0000"}',
        media_facts_json='{"$duration":2.5,"tracks":[]}',
        owner="$current.file\0é",
        revision=revision,
    )
    return replace(info, **changes)  # type: ignore[arg-type]


def new_id() -> str:
    """An id that was made in 2019."""
    return f"{int(LONG_AGO.timestamp()):08x}{secrets.token_hex(8)}"


def next_version(info: MediaInfo, data: bytes, revision: int) -> MediaInfo:
    return replace(describe(data, info.filename, revision), id=info.id)


async def blocks_of(data: bytes, *, fail_before: int | None = None) -> AsyncIterator[bytes]:
    for number, start in enumerate(range(0, len(data), CHUNK_SIZE)):
        if number == fail_before:
            raise CorruptFile("the source is damaged")
        yield data[start : start + CHUNK_SIZE]


async def refuse_to_read() -> AsyncIterator[bytes]:
    for _ in range(1):
        pytest.fail("the blocks were read")
    yield b""


async def find(store: MediaStore, info: MediaInfo) -> MediaInfo | None:
    return await store.reader.find(MediaName(info.folder, info.filename))


async def read(store: MediaStore, info: MediaInfo) -> bytes:
    count = -(-info.length // CHUNK_SIZE)
    return b"".join(await store.reader.read_blocks(info, 0, count - 1)) if count else b""


async def list_ids(store: MediaStore) -> list[str]:
    return [info.id for info in (await store.reader.list_files(ListQuery())).files]


async def put(store: MediaStore, name: MediaName, data: bytes) -> MediaInfo:
    upload = await store.uploads.create_upload(name, NewUpload(), NO_PRECONDITIONS)
    if data:
        await store.uploads.write_blocks(upload, 0, [data])
    stored = StoredFile(len(data), "text/plain", hashlib.sha256(data).hexdigest())
    event = await store.uploads.commit(upload, stored, NO_PRECONDITIONS)
    await store.uploads.ack_event(event)
    return event.info


async def collect(store: MediaStore) -> None:
    async for media_id in store.garbage.list_due():
        await store.garbage.collect(media_id)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 19 * CHUNK_SIZE + 7])
async def test_everything_about_a_file_is_kept(store: MediaStore, size: int) -> None:
    """A field with a default that is added later must be imported too, so each has another value here."""
    data = os.urandom(size)
    poster = Poster(b"GIF89a", "image/gif", hashlib.sha256(b"GIF89a").hexdigest())
    info = describe(data, poster_etag=poster.etag)
    assert [field.name for field in fields(MediaInfo) if getattr(info, field.name) == field.default] == []
    await store.importer.import_poster(info, poster)
    assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    assert await find(store, info) == info
    assert await read(store, info) == data
    assert await store.reader.read_poster(info) == poster
    page = await store.reader.list_files(ListQuery(folder=info.folder, filename_contains="FILM"))
    assert page.files == [info]
    assert await store.reader.list_folders(None, 9) == [info.folder]


async def test_a_file_that_was_moved_here_is_imported_again(store: MediaStore) -> None:
    """Its id is not that of its name."""
    first, second = describe(b"1", "a"), describe(b"2", "b")
    for info, data in ((first, b"1"), (second, b"2")):
        assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    assert await store.uploads.delete(MediaName(second.folder, "b"))
    assert await store.uploads.move_file(MediaName(first.folder, "a"), MediaName(first.folder, "b"))
    newer = replace(next_version(first, b"3", 99), filename="b")
    assert await store.importer.import_file(newer, blocks_of(b"3")) == "imported"
    assert await find(store, newer) == newer
    with pytest.raises(Conflict):
        await store.importer.import_file(replace(first, filename="c", file_id=new_id()), blocks_of(b"1"))


async def test_a_file_without_a_sha256_keeps_its_entity_tag(store: MediaStore) -> None:
    info = describe(b"x", sha256=None, stored_etag='"parts-2-abc"', metadata_json="{}", content_type="a/b; c=d")
    assert await store.importer.import_file(info, blocks_of(b"x")) == "imported"
    assert await find(store, info) == info


async def test_a_file_without_an_entity_tag_gets_the_one_that_clients_know(store: MediaStore) -> None:
    """So it is in the oldest databases, which have no revisions either."""
    info = describe(b"x", stored_etag=None, revision=0)
    assert await store.importer.import_file(info, blocks_of(b"x")) == "imported"
    found = await find(store, info)
    assert found is not None
    assert found.to_public_dict() == info.to_public_dict()
    assert await store.importer.import_file(info, refuse_to_read()) == "unchanged"


async def test_the_same_file_again_changes_nothing(store: MediaStore) -> None:
    data = os.urandom(CHUNK_SIZE + 1)
    info = describe(data)
    await store.importer.import_file(info, blocks_of(data))
    for _ in range(2):
        assert await store.importer.import_file(info, refuse_to_read()) == "unchanged"
    assert await find(store, info) == info
    assert await read(store, info) == data


async def test_no_event_is_published_and_later_changes_count_on(store: MediaStore) -> None:
    info = describe(b"x", revision=7)
    await store.importer.import_file(info, blocks_of(b"x"))
    assert await store.garbage.list_unpublished(info.id) in ((), [])
    replaced = await put(store, MediaName(info.folder, info.filename), b"local")
    assert (replaced.id, replaced.revision) == (info.id, 8)


async def test_a_newer_version_replaces_an_older_one_with_the_readers_grace(store: MediaStore) -> None:
    info = describe(b"one")
    await store.importer.import_file(info, blocks_of(b"one"))
    newer = next_version(info, b"second", 5)
    assert await store.importer.import_file(newer, blocks_of(b"second")) == "imported"
    assert await find(store, newer) == newer
    assert await read(store, info) == b"one"

    async def is_collected() -> bool:
        await collect(store)
        try:
            await read(store, info)
        except CorruptFile:
            return True
        return False

    await eventually_async(is_collected, 10)
    assert await read(store, newer) == b"second"


@pytest.mark.parametrize("revision", [2, 4])
async def test_a_version_that_is_newer_here_is_kept(store: MediaStore, revision: int) -> None:
    """Also one that is as new: both stores have changed the file since it was copied."""
    info = describe(b"x")
    await store.importer.import_file(info, blocks_of(b"x"))
    local = await put(store, MediaName(info.folder, info.filename), b"local")
    other = next_version(info, b"other", revision)
    assert await store.importer.import_file(other, refuse_to_read()) == "kept"
    assert await find(store, info) == local


async def test_another_file_is_never_overwritten(store: MediaStore) -> None:
    info = describe(b"x")
    await store.importer.import_file(info, blocks_of(b"x"))
    same_name = replace(describe(b"y", revision=9))
    same_id = replace(describe(b"y", "other"), id=info.id)
    same_file_id = replace(describe(b"y", "other"), file_id=info.file_id)
    same_file_id_and_name = replace(info, length=7)
    for wrong in (same_name, same_id, same_file_id, same_file_id_and_name):
        with pytest.raises(Conflict):
            await store.importer.import_file(wrong, blocks_of(b"y"))
    assert await list_ids(store) == [info.id]
    assert await find(store, info) == info
    assert await read(store, info) == b"x"


@pytest.mark.parametrize("field", ["id", "file_id"])
@pytest.mark.parametrize("value", ["", "../../etc/passwd", "Z" * 24, "a" * 23])
async def test_ids_of_another_form_are_refused(store: MediaStore, field: str, value: str) -> None:
    with pytest.raises(BadRequest):
        await store.importer.import_file(describe(b"x", **dict[str, Any]({field: value})), blocks_of(b"x"))
    assert await list_ids(store) == []


async def test_an_import_that_failed_is_invisible_and_can_be_repeated(store: MediaStore) -> None:
    data = os.urandom(20 * CHUNK_SIZE + 3)
    info = describe(data)
    for fail_before in (0, 1, 8, 17, 20):
        with pytest.raises(CorruptFile):
            await store.importer.import_file(info, blocks_of(data, fail_before=fail_before))
        assert await find(store, info) is None
        await collect(store)
        assert await store.garbage.delete_orphans() == 0
    assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    assert await find(store, info) == info
    assert await read(store, info) == data


async def test_a_wrong_number_of_bytes_is_not_stored(store: MediaStore) -> None:
    data = os.urandom(CHUNK_SIZE + 3)
    info = describe(data)
    for wrong in (data[:-1], data + b"x", data * 2, b""):
        with pytest.raises(CorruptFile):
            await store.importer.import_file(info, blocks_of(wrong))
        assert await find(store, info) is None
    assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    assert await read(store, info) == data


async def test_the_second_of_two_imports_of_one_file_wins(store: MediaStore) -> None:
    """The first is that of a process that was paused: it changes nothing when it goes on."""
    data = os.urandom(30 * CHUNK_SIZE)
    info = describe(data)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def paused() -> AsyncIterator[bytes]:
        number = 0
        async for block in blocks_of(data):
            if number == 12:
                waiting.set()
                await go_on.wait()
            number += 1
            yield block

    first = asyncio.create_task(store.importer.import_file(info, paused()))
    await waiting.wait()
    assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    go_on.set()
    with pytest.raises(Conflict):
        await first
    assert await find(store, info) == info
    assert await read(store, info) == data


async def test_a_local_change_during_an_import_is_not_overwritten(store: MediaStore) -> None:
    data = os.urandom(3 * CHUNK_SIZE)
    info = describe(b"x")
    await store.importer.import_file(info, blocks_of(b"x"))
    newer = next_version(info, data, 4)
    local: list[MediaInfo] = []

    async def blocks() -> AsyncIterator[bytes]:
        async for block in blocks_of(data):
            yield block
        local.append(await put(store, MediaName(info.folder, info.filename), b"local"))

    with pytest.raises(Conflict) as refused:
        await store.importer.import_file(newer, blocks())
    assert refused.value.detail == file_importer.CHANGED_MEANWHILE
    assert await find(store, info) == local[0]
    assert await store.importer.import_file(newer, refuse_to_read()) == "kept"


async def test_a_version_that_was_deleted_here_comes_back_only_after_its_bytes_are_deleted(store: MediaStore) -> None:
    data = os.urandom(2 * CHUNK_SIZE)
    info = describe(data)
    await store.importer.import_file(info, blocks_of(data))
    event = await store.uploads.delete(MediaName(info.folder, info.filename))
    assert event is not None
    await store.uploads.ack_event(event)
    with pytest.raises(Conflict) as refused:
        await store.importer.import_file(info, blocks_of(data))
    assert refused.value.detail == file_importer.TO_BE_DELETED

    async def comes_back() -> bool:
        await collect(store)
        try:
            return await store.importer.import_file(info, blocks_of(data)) == "imported"
        except Conflict:
            return False

    await eventually_async(comes_back, 10)
    # Clients know revision 4, that of the deletion.
    assert await find(store, info) == replace(info, revision=5)
    assert await read(store, info) == data


async def test_bytes_that_the_search_for_orphans_may_delete_are_not_used(
    store: MediaStore, settings: StoreSettings
) -> None:
    data = os.urandom(CHUNK_SIZE + 1)
    info = describe(data)
    leave_orphan(settings, info.file_id)
    with pytest.raises(Conflict) as refused:
        await store.importer.import_file(info, blocks_of(data))
    assert refused.value.detail == file_importer.BYTES_LEFT_BEHIND
    for _ in range(2):
        with pytest.raises(Conflict):
            await store.importer.import_file(info, blocks_of(data))

    async def is_swept() -> bool:
        return await store.garbage.delete_orphans() == 1

    await eventually_async(is_swept, 10)
    assert await store.importer.import_file(info, blocks_of(data)) == "imported"
    assert await read(store, info) == data


def leave_orphan(settings: StoreSettings, file_id: str) -> None:
    """Store bytes under a file id, two days ago, that no file has."""
    if settings.store == "gridfs":
        with pymongo.MongoClient[dict[str, object]](settings.mongodb_uri.get_secret_value()) as client:
            chunk = {"files_id": ObjectId(file_id), "n": 0, "data": b"old"}
            client[settings.mongodb_database]["fs.chunks"].insert_one(chunk)
        return
    path = Path(settings.files_dir) / "files" / file_id[-2:] / file_id[-3] / file_id
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    changed_at = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(path, (changed_at, changed_at))


async def test_the_search_for_orphans_spares_an_import_in_progress(store: MediaStore) -> None:
    """Its ids are years old."""
    data = os.urandom(20 * CHUNK_SIZE)
    info = describe(data)

    async def blocks() -> AsyncIterator[bytes]:
        number = 0
        async for block in blocks_of(data):
            if number in {9, 19}:
                assert await store.garbage.delete_orphans() == 0
                await collect(store)
            number += 1
            yield block

    assert await store.importer.import_file(info, blocks()) == "imported"
    assert await read(store, info) == data
