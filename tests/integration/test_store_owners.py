"""The contract of every store about whose an upload and a file is, and about the secret in an upload's id."""

from dataclasses import replace

import pytest

from services.common.errors import AlreadyExists
from services.common.media import MediaName
from services.common.store.media_reader import ListQuery
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_store import (
    FinishedUpload,
    InProgressUpload,
    NewUpload,
)
from tests.support.store_adapters import NAME, StoreAdapters, finished_upload, new_tus_upload

pytestmark = pytest.mark.anyio


def other_ids(upload_id: str) -> list[str]:
    """Ids of the same entry with another secret, or none."""
    entry, _, secret = upload_id.rpartition("-")
    changed = f"{int(secret, 16) ^ 1:032x}"
    return [entry, f"{entry}-", f"{entry}-{changed}", f"{entry}-{'0' * 32}", f"{entry}-{secret.upper()}x"]


async def test_an_upload_is_found_by_its_whole_id_only(adapters: StoreAdapters) -> None:
    store = adapters.store
    upload = await store.create_upload(NAME, new_tus_upload(""))
    for other in other_ids(upload.upload_id):
        assert await store.get_info(other) is None
        assert await store.get_durable_info(other) is None
        assert await store.acquire(other) is None
    await store.renew_lease(upload)  # none of them has acquired it
    taken = await store.acquire(upload.upload_id)
    assert isinstance(taken, tuple)
    assert taken[0].upload_id == upload.upload_id
    assert isinstance(await store.get_info(upload.upload_id), InProgressUpload)
    await store.commit(taken[0], finished_upload(b""))
    assert isinstance(await store.get_durable_info(upload.upload_id), FinishedUpload)
    for other in other_ids(upload.upload_id):
        assert await store.get_info(other) is None
        assert await store.acquire(other) is None


async def test_uploads_begun_before_there_were_secrets_go_on(adapters: StoreAdapters) -> None:
    store = adapters.store
    upload = await store.create_upload(NAME, new_tus_upload(""))
    old_id = upload.upload_id.rpartition("-")[0]
    adapters.inspector.forget_secrets()
    assert await store.get_info(upload.upload_id) is None
    assert isinstance(await store.get_info(old_id), InProgressUpload)
    taken = await store.acquire(old_id)
    assert isinstance(taken, tuple)
    assert taken[0].upload_id == old_id
    await store.commit(taken[0], finished_upload(b""))
    assert isinstance(await store.get_durable_info(old_id), FinishedUpload)
    assert await store.get_info(upload.upload_id) is None


ALICE, BOB = "$current.file\0\u00e9", "bob"
"""Subjects are any text: no field path, and no character that a database refuses."""


def owned(owner: str, ttl: float | None = 60) -> NewUpload:
    return replace(new_tus_upload(""), owner=owner, ttl=ttl)


async def test_a_file_has_the_owner_of_its_upload(adapters: StoreAdapters) -> None:
    store = adapters.store
    first = await store.create_upload(NAME, owned(ALICE))
    state = await store.get_info(first.upload_id)
    assert isinstance(state, InProgressUpload)
    assert (first.owner, state.owner) == (ALICE, ALICE)
    taken = await store.acquire(first.upload_id)
    assert isinstance(taken, tuple)
    assert taken[0].owner == ALICE
    created = await store.commit(taken[0], finished_upload(b""))
    assert (created.info.owner, created.previous_owner) == (ALICE, "")
    finished = await store.get_durable_info(first.upload_id)
    assert isinstance(finished, FinishedUpload)
    assert finished.owner == ALICE
    replacing = await store.create_upload(NAME, owned(BOB, None), NO_PRECONDITIONS)
    replaced = await store.commit(replacing, finished_upload(b""), NO_PRECONDITIONS)
    assert (replaced.info.owner, replaced.previous_owner) == (BOB, ALICE)
    assert await adapters.reader.find(NAME) == replaced.info
    assert (await adapters.reader.list_files(ListQuery())).files == [replaced.info]
    without = await store.create_upload(NAME, NewUpload(), NO_PRECONDITIONS)
    unowned = await store.commit(without, finished_upload(b""), NO_PRECONDITIONS)
    assert (unowned.info.owner, unowned.previous_owner) == ("", BOB)
    deleted = await store.delete(NAME)
    assert deleted is not None
    assert (deleted.info.owner, deleted.previous_owner) == ("", "")
    unpublished = await adapters.keeper.list_unpublished(deleted.info.id)
    assert [(event.info.owner, event.previous_owner) for event in unpublished] == [
        (ALICE, ""),
        (BOB, ALICE),
        ("", BOB),
        ("", ""),
    ]


async def test_a_nameless_upload_keeps_its_owner_when_it_is_named(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(None, owned(ALICE, None))
    named = await adapters.store.assign_name(upload, NAME)
    assert named.owner == ALICE
    event = await adapters.store.commit(named, finished_upload(b""))
    assert event.info.owner == ALICE


async def test_the_outcome_of_a_lost_upload_has_its_owner(adapters: StoreAdapters) -> None:
    store, name = adapters.store, MediaName("f", "taken")
    lost, stored = [await store.create_upload(name, owned(owner)) for owner in (ALICE, BOB)]
    await store.commit(stored, finished_upload(b""))
    with pytest.raises(AlreadyExists):
        await store.commit(lost, finished_upload(b""))
    await store.abort(lost, name_taken=True)
    state = await store.get_durable_info(lost.upload_id)
    assert isinstance(state, FinishedUpload)
    assert (state.outcome, state.owner) == ("lost", ALICE)
