"""Moves and restoring: the same contract for every store, and what a fault at any step of a move leaves."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from services.common.errors import AlreadyExists, Conflict, Gone, PreconditionFailed, ServiceUnavailable
from services.common.media import MediaName, Poster
from services.common.store.files import file_changes
from services.common.store.media_reader import ListQuery
from services.common.store.preconditions import MUST_NOT_EXIST, NO_PRECONDITIONS
from services.common.store.upload_store import (
    NewUpload,
    OutboxEvent,
)
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import (
    NAME,
    GridFSAdapters,
    StoreAdapters,
    finished_upload,
    new_tus_upload,
    sha256_is,
)

pytestmark = pytest.mark.anyio
IN_SEVERAL_UPDATES = pytest.mark.parametrize("adapters", ["gridfs-motor", "gridfs-pymongo"], indirect=True)
IN_ONE_TRANSACTION = pytest.mark.parametrize("adapters", ["files-sqlite", "files-postgresql"], indirect=True)

SIBLING = MediaName(NAME.folder, "other")
ELSEWHERE = MediaName("g/h", "n")


async def move(adapters: StoreAdapters, name: MediaName, new_name: MediaName) -> tuple[OutboxEvent, ...]:
    events = await adapters.store.move_file(name, new_name)
    assert events is not None
    return events


async def visible_names(adapters: StoreAdapters) -> list[MediaName]:
    """The names at which the file is found, after lists were found to say the same."""
    found = [name for name in (NAME, SIBLING, ELSEWHERE) if await adapters.reader.find(name)]
    page = await adapters.reader.list_files(ListQuery())
    assert sorted((info.folder, info.filename) for info in page.files) == sorted((n.folder, n.filename) for n in found)
    return found


@pytest.mark.parametrize("new_name", [SIBLING, ELSEWHERE])
async def test_a_move_keeps_all_but_the_name(adapters: StoreAdapters, new_name: MediaName) -> None:
    data = os.urandom(CHUNK_SIZE + 7)
    stored = (await adapters.store_event(data)).info
    moved, *others = await move(adapters, NAME, new_name)
    info = await adapters.reader.find(new_name)
    assert info is not None
    assert info == moved.info
    assert (info.id, info.file_id, info.etag, info.uploaded_at) == (
        stored.id,
        stored.file_id,
        stored.etag,
        stored.uploaded_at,
    )
    assert b"".join(await adapters.reader.read_blocks(info, 0, 1)) == data
    assert await visible_names(adapters) == [new_name]
    assert moved.type == "file.moved"
    assert moved.previous is not None
    assert (moved.previous.name, moved.previous.revision) == (NAME, stored.revision + 1)
    assert info.revision > moved.previous.revision
    # Only those who cannot see where it went are told that it is gone.
    told = [(event.type, event.info.folder, event.info.id) for event in others]
    assert told == ([] if new_name is SIBLING else [("file.deleted", NAME.folder, stored.id)])


async def test_the_next_file_of_the_old_name_has_another_id(adapters: StoreAdapters) -> None:
    first = (await adapters.store_event(b"1")).info
    events = await move(adapters, NAME, ELSEWHERE)
    second = (await adapters.store_event(b"2")).info
    assert second.id != first.id
    assert second.revision > events[-1].info.revision
    # And back again, over a name whose file was deleted: it keeps its own id.
    await adapters.store.delete(NAME)
    (back, *_) = await move(adapters, ELSEWHERE, NAME)
    assert (back.info.id, back.info.file_id) == (first.id, first.file_id)
    assert back.info.revision > second.revision + 1
    assert await visible_names(adapters) == [NAME]


async def test_what_a_move_refuses(adapters: StoreAdapters) -> None:
    assert await adapters.store.move_file(NAME, SIBLING) is None
    await adapters.store_file(b"1")
    await adapters.store_file(b"2", SIBLING)
    for new_name in (SIBLING, NAME):
        with pytest.raises(AlreadyExists):
            await adapters.store.move_file(NAME, new_name)
    with pytest.raises(PreconditionFailed):
        await adapters.store.move_file(NAME, ELSEWHERE, sha256_is(b"2"))
    assert await visible_names(adapters) == [NAME, SIBLING]
    assert await adapters.store.move_file(NAME, ELSEWHERE, sha256_is(b"1"))
    assert await visible_names(adapters) == [SIBLING, ELSEWHERE]


async def test_unfinished_uploads_stay_with_their_name(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"1")
    upload = await adapters.store.create_upload(NAME, new_tus_upload("a"), NO_PRECONDITIONS)
    await move(adapters, NAME, SIBLING)
    await adapters.store.write_blocks(upload, 0, [b"2"])
    event = await adapters.store.commit(upload, finished_upload(b"2"), MUST_NOT_EXIST)
    assert (event.type, event.info.filename) == ("file.created", NAME.filename)
    assert await visible_names(adapters) == [NAME, SIBLING]


async def test_only_one_of_many_moves_to_one_name_succeeds(adapters: StoreAdapters) -> None:
    names = [MediaName("m", str(number)) for number in range(8)]
    for name in names:
        await adapters.store_file(name.filename.encode(), name)
    results = await asyncio.gather(*(adapters.store.move_file(name, SIBLING) for name in names), return_exceptions=True)
    assert sum(isinstance(result, tuple) for result in results) == 1
    assert all(isinstance(result, tuple | AlreadyExists) for result in results)
    page = await adapters.reader.list_files(ListQuery())
    assert len({info.id for info in page.files}) == len(page.files) == len(names)


async def test_moves_meet_replacements_and_deletions(adapters: StoreAdapters) -> None:
    """Whatever comes first, nothing is lost or doubled: each file is at one name, and each that was stored is somewhere."""

    async def go(call: Any) -> Any:
        try:
            return await call
        except (AlreadyExists, Conflict, PreconditionFailed):
            return None

    for number in range(6):
        await adapters.store_file(b"old", NAME)
        moved, stored, deleted = await asyncio.gather(
            go(adapters.store.move_file(NAME, ELSEWHERE)),
            go(adapters.store_event(b"new")),
            go(adapters.store.delete(NAME)) if number % 2 else asyncio.sleep(0),
        )
        assert stored is not None
        page = await adapters.reader.list_files(ListQuery())
        assert len({info.file_id for info in page.files}) == len(page.files)
        at_new_name = await adapters.reader.find(ELSEWHERE)
        assert (at_new_name is not None) == (moved is not None)
        at_name = await adapters.reader.find(NAME)
        if not deleted and not (at_new_name and at_new_name.file_id == stored.info.file_id):
            assert at_name is not None
            assert at_name.file_id == stored.info.file_id
        for name in (NAME, ELSEWHERE):
            await adapters.store.delete(name)


class Killed(BaseException):
    """Ends a writer at once: nothing of its own may run afterwards."""


@contextmanager
def killed_at(adapters: StoreAdapters, step: int, *, is_done: bool) -> Iterator[None]:
    """End the writer before its write number `step`, or behind it."""
    count = 0

    def wrap(call: Any) -> Any:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step and not is_done:
                raise Killed
            result = await call(*args, **kwargs)
            if count == step:
                raise Killed
            return result

        return wrapped

    class Writes:
        def __init__(self, collection: Any) -> None:
            self._collection = collection

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._collection, name)
            return wrap(found) if name in {"find_one_and_update", "update_one", "delete_one"} else found

    assert isinstance(adapters, GridFSAdapters)
    mover = adapters.store._mover
    collections = {name: getattr(mover, name) for name in ("_media", "_files")}
    floors = mover._floors
    floors_media = floors._media
    for name, collection in collections.items():
        setattr(mover, name, Writes(collection))
    floors._media = Writes(floors_media)
    try:
        yield
    finally:
        for name, collection in collections.items():
            setattr(mover, name, collection)
        floors._media = floors_media


@IN_SEVERAL_UPDATES
@pytest.mark.parametrize("follow_up", ["collect", "replace", "delete", "move again", "create there"])
async def test_a_writer_killed_at_any_step_leaves_the_file_at_one_name(adapters: StoreAdapters, follow_up: str) -> None:
    arrived: list[bool] = []
    for step in range(1, 20):
        for is_done in (False, True):
            file_id = (await adapters.store_event(b"1")).info.file_id
            was_killed = False
            try:
                with killed_at(adapters, step, is_done=is_done):
                    await move(adapters, NAME, ELSEWHERE)
            except Killed:
                was_killed = True
            (name,) = await visible_names(adapters)
            arrived.append(name == ELSEWHERE)
            info = await adapters.reader.find(name)
            assert info is not None
            assert info.file_id == file_id
            if follow_up == "replace":
                replaced = (await adapters.store_event(b"2", name)).info
                assert (replaced.id, replaced.revision) == (info.id, info.revision + 1)
                assert await visible_names(adapters) == [name]
            elif follow_up == "delete":
                assert await adapters.store.delete(name)
                assert await visible_names(adapters) == []
            elif follow_up == "move again":
                events = await move(adapters, name, SIBLING)
                assert (events[0].info.id, events[0].info.file_id) == (info.id, info.file_id)
                assert await visible_names(adapters) == [SIBLING]
            elif follow_up == "create there":
                free = NAME if name == ELSEWHERE else ELSEWHERE
                upload = await adapters.store.create_upload(free, NewUpload())
                created = await adapters.store.commit(upload, finished_upload(b""))
                assert created.info.id != info.id
                assert len(await visible_names(adapters)) == 2
            before = await visible_names(adapters)
            await adapters.collect_once()
            assert await visible_names(adapters) == before
            for document in adapters.inspector.list_documents():
                assert not {"moving", "incoming"} & set(document)
                assert not document.get("arrived")
            for left in before:
                await adapters.store.delete(left)
            if not was_killed:
                assert arrived[0] is False
                assert arrived[-1] is True
                return
    pytest.fail("a move has too many steps")


@IN_ONE_TRANSACTION
async def test_a_failed_transaction_moves_nothing(adapters: StoreAdapters, monkeypatch: pytest.MonkeyPatch) -> None:
    await adapters.store_file(b"1")

    def fail(*_: Any, **__: Any) -> OutboxEvent:
        raise ServiceUnavailable("killed")

    with monkeypatch.context() as patch:
        patch.setattr(file_changes, "append_event", fail)
        patch.setattr("services.common.store.files.commit.RESOLVE_TIMEOUT_SECONDS", 0)
        with pytest.raises(ServiceUnavailable):
            await adapters.store.move_file(NAME, ELSEWHERE)
    assert await visible_names(adapters) == [NAME]
    await move(adapters, NAME, ELSEWHERE)
    assert await visible_names(adapters) == [ELSEWHERE]


async def test_a_move_leaves_no_empty_documents(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"1")
    for event in await move(adapters, NAME, ELSEWHERE):
        for earlier in (*event.earlier, event):
            await adapters.store.ack_event(earlier)
    for document in adapters.inspector.list_documents():
        for event in await adapters.keeper.list_unpublished(str(document["_id"])):
            await adapters.store.ack_event(event)
    (left,) = adapters.inspector.list_documents()
    assert left["folder"] == ELSEWHERE.folder


async def test_restoring_undoes_the_last_deletion(adapters: StoreAdapters) -> None:
    with pytest.raises(Gone):
        await adapters.store.restore(NAME)
    data = os.urandom(CHUNK_SIZE + 7)
    await adapters.store_file(b"replaced")
    stored = (await adapters.store_event(data)).info
    with pytest.raises(AlreadyExists):
        await adapters.store.restore(NAME)
    deleted = await adapters.store.delete(NAME)
    assert deleted is not None
    restored = await adapters.store.restore(NAME)
    assert restored.type == "file.restored"
    found = await adapters.reader.find(NAME)
    assert found == restored.info
    assert found is not None
    assert found.revision == deleted.info.revision + 1
    assert (found.id, found.file_id, found.uploaded_at) == (stored.id, stored.file_id, stored.uploaded_at)
    with pytest.raises(AlreadyExists):
        await adapters.store.restore(NAME)
    await adapters.collect_until_done(adapters.inspector)
    assert b"".join(await adapters.reader.read_blocks(found, 0, 1)) == data


async def test_a_file_that_was_deleted_too_long_ago_is_gone(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"1")
    await adapters.store.delete(NAME)
    adapters.inspector.make_tombstones_due(NAME.filename)
    with pytest.raises(Gone):
        await adapters.store.restore(NAME)
    await adapters.collect_until_done(adapters.inspector)
    with pytest.raises(Gone):
        await adapters.store.restore(NAME)


async def test_one_of_many_restorations_wins(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"1")
    await adapters.store.delete(NAME)
    results = await asyncio.gather(*(adapters.store.restore(NAME) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, OutboxEvent) for result in results) == 1
    assert all(isinstance(result, OutboxEvent | AlreadyExists) for result in results)


def picture(text: bytes) -> Poster:
    data = b"GIF89a" + text
    return Poster(data, "image/gif", hashlib.sha256(data).hexdigest())


async def test_a_poster_goes_where_its_file_goes(adapters: StoreAdapters) -> None:
    assert await adapters.store.set_poster(NAME, picture(b"0")) is None
    stored = (await adapters.store_event(b"1")).info
    assert stored.poster_etag is None
    assert await adapters.reader.read_poster(stored) is None
    for poster in (picture(b"1"), picture(b"2" * 1024 * 1024), picture(b"3")):
        event = await adapters.store.set_poster(NAME, poster)
        assert event is not None
        assert (event.type, event.info.poster_etag) == ("file.described", poster.etag)
        found = await adapters.reader.find(NAME)
        assert found == event.info
        assert found is not None
        assert await adapters.reader.read_poster(found) == poster
    assert found is not None
    assert (found.etag, found.file_id, found.revision) == (stored.etag, stored.file_id, stored.revision + 3)
    (moved, *_) = await move(adapters, NAME, ELSEWHERE)
    assert moved.info.poster_etag == poster.etag
    assert await adapters.reader.read_poster(moved.info) == poster
    deleted = await adapters.store.delete(ELSEWHERE)
    assert deleted is not None
    assert deleted.info.poster_etag == poster.etag
    restored = (await adapters.store.restore(ELSEWHERE)).info
    assert await adapters.reader.read_poster(restored) == poster
    # The next version has none, and that of the old one is deleted with its bytes.
    replaced = (await adapters.store_event(b"2", ELSEWHERE)).info
    assert replaced.poster_etag is None
    adapters.inspector.make_tombstones_due(ELSEWHERE.filename)
    await adapters.collect_until_done(adapters.inspector)
    assert await adapters.reader.read_poster(restored) is None


async def test_a_poster_is_removed_and_its_conditions_are_about_the_file(adapters: StoreAdapters) -> None:
    await adapters.store_file(b"1")
    with pytest.raises(PreconditionFailed):
        await adapters.store.set_poster(NAME, picture(b"1"), sha256_is(b"2"))
    set_ = await adapters.store.set_poster(NAME, picture(b"1"), sha256_is(b"1"))
    assert set_ is not None
    removed = await adapters.store.set_poster(NAME, None)
    assert removed is not None
    assert removed.info.poster_etag is None
    assert await adapters.reader.read_poster(set_.info) is None
    assert (await adapters.reader.list_files(ListQuery())).files == [removed.info]


async def test_one_of_several_posters_stays(adapters: StoreAdapters) -> None:
    """Whichever is named by the description can be read."""
    await adapters.store_file(b"1")
    posters = [picture(bytes([number])) for number in range(4)] * 2
    await asyncio.gather(*(adapters.store.set_poster(NAME, poster) for poster in posters), return_exceptions=True)
    info = await adapters.reader.find(NAME)
    assert info is not None
    assert await adapters.reader.read_poster(info) in posters


@pytest.mark.parametrize("follow_up", ["move", "delete"])
async def test_posters_meet_other_changes(adapters: StoreAdapters, follow_up: str) -> None:
    for number in range(5):
        await adapters.store_file(bytes([number]))
        poster = picture(bytes([number]))
        change = move(adapters, NAME, ELSEWHERE) if follow_up == "move" else adapters.store.delete(NAME)
        await asyncio.gather(adapters.store.set_poster(NAME, poster), change, return_exceptions=True)
        for name in await visible_names(adapters):
            info = await adapters.reader.find(name)
            assert info is not None
            assert (await adapters.reader.read_poster(info)) == (poster if info.poster_etag else None)
            await adapters.store.delete(name)


@IN_SEVERAL_UPDATES
async def test_an_orphaned_poster_is_deleted(adapters: GridFSAdapters) -> None:
    await adapters.store_file(b"1")
    event = await adapters.store.set_poster(NAME, picture(b"1"))
    assert event is not None
    posters = adapters.inspector.db["posters"]
    (kept,) = posters.find()
    long_ago = ObjectId.from_datetime(datetime.now(UTC) - timedelta(days=2))
    young = {**kept, "_id": f"{ObjectId()}-{ObjectId()}"}
    posters.insert_many(
        [{**kept, "_id": f"{ObjectId()}-{long_ago}"}, {**kept, "_id": f"{event.info.file_id}-{long_ago}"}, young]
    )
    await adapters.keeper.delete_orphans()
    assert {one["_id"] for one in posters.find()} == {kept["_id"], f"{event.info.file_id}-{long_ago}", young["_id"]}
