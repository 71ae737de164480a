"""The contract of what authentication asks of every store: lists of readable folders alone, and revocations."""

import asyncio
import random
import time

import pytest

from services.common.auth.revocations import Revocation
from services.common.media import FolderFilter, MediaInfo, MediaName
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.media_reader import ListQuery, MediaLister
from services.common.store.upload_store import NewUpload
from tests.support.opened_stores import STORE_KINDS, opened_store, with_stores
from tests.support.store_adapters import finished_upload

pytestmark = pytest.mark.anyio

# In the order of their bytes; "a-b" and "a." come before "a/" and "a0" after all that is below a.
FOLDERS = [
    "",
    "A",
    "a",
    "a-b",
    "a-b/c",
    "a.",
    "a/a",
    "a/b",
    "a/b/c",
    "a/b0",
    "a/c",
    "a0",
    "a0/x",
    "a%b",
    "b",
    "b/ä/c",
    "ä",
]
FILES_OF_EACH = 3


async def store_file(store: MediaStore, folder: str, filename: str) -> None:
    upload = await store.uploads.create_upload(MediaName(folder, filename), NewUpload())
    await store.uploads.commit(upload, finished_upload(b""))


async def list_all(reader: MediaLister, limit: int, **filters: object) -> list[MediaInfo]:
    """All files, and a check that every page but the last one is full."""
    found: list[MediaInfo] = []
    after = None
    while True:
        page = await reader.list_files(ListQuery(after=after, limit=limit, **filters))  # type: ignore[arg-type]
        found += page.files
        if page.next_key is None:
            return found
        assert len(page.files) == limit
        after = page.next_key


async def list_all_folders(reader: MediaLister, limit: int, readable: FolderFilter) -> list[str]:
    found: list[str] = []
    while True:
        page = await reader.list_folders(found[-1] if found else None, limit, readable)
        found += page
        if not page:
            return found
        assert len(page) <= limit


def draw_filters() -> list[FolderFilter]:
    """The cases that need a look, and drawn ones; folders that hold no file and trees within trees are among them."""
    draw = random.Random(7)
    names = [*FOLDERS, "none", "a/none", "a/b/none"]
    drawn = [
        FolderFilter(
            frozenset(draw.sample(names, draw.randint(0, 4))), frozenset(draw.sample(names[1:], draw.randint(0, 4)))
        )
        for _ in range(20)
    ]
    return [
        FolderFilter(),
        FolderFilter(exact=frozenset({""})),
        FolderFilter(exact=frozenset({"a"})),
        FolderFilter(trees=frozenset({"a"})),
        FolderFilter(frozenset({"a/b"}), frozenset({"a", "a/b"})),
        FolderFilter(frozenset(f"none/{number}" for number in range(600)) | {"ä"}),
        *drawn,
    ]


@with_stores(*((kind,) for kind in STORE_KINDS))
async def test_lists_have_what_is_readable_and_full_pages(stores: list[StoreSettings]) -> None:
    async with opened_store(stores[0]) as store:
        for number in range(FILES_OF_EACH):
            for folder in FOLDERS:
                await store_file(store, folder, f"{number}.{'mp4' if number else 'webm'}")
        await store.uploads.create_upload(MediaName("a/begun", "x"), NewUpload())
        reader = store.reader
        ordered = [(one.folder, one.filename) for one in await list_all(reader, 7)]
        assert len(ordered) == len(FOLDERS) * FILES_OF_EACH
        for readable in draw_filters():
            allowed = [one for one in ordered if readable.allows(one[0])]
            for limit in (1, 4, 200):
                found = await list_all(reader, limit, readable=readable)
                assert [(one.folder, one.filename) for one in found] == allowed, readable
                folders = await list_all_folders(reader, limit, readable)
                assert folders == sorted({folder for folder, _ in allowed}), (readable, limit)
            found = await list_all(reader, 4, readable=readable, filename_contains="WEBM")
            assert [(one.folder, one.filename) for one in found] == [one for one in allowed if "webm" in one[1]]
            found = await list_all(reader, 4, readable=readable, folder="a/b")
            assert [(one.folder, one.filename) for one in found] == [one for one in allowed if one[0] == "a/b"]


@with_stores(*((kind,) for kind in STORE_KINDS))
async def test_revocations_last_until_their_end(stores: list[StoreSettings]) -> None:
    now = float(round(time.time()))
    subject = "alice \u0000 \U0001f600 " + "\u20ac" * 245  # 255 characters, none of them special to a store
    kept = [
        Revocation("subject", subject, now + 0.25, now + 600),
        Revocation("subject", "x", now, now + 500),
        Revocation("token", "x", now, now + 400),
    ]
    async with opened_store(stores[0]) as store:
        assert list(await store.revocations.list_current(now)) == []
        await store.revocations.add(Revocation("subject", subject, now - 60, now + 60))
        for revocation in kept:
            await store.revocations.add(revocation)
        assert list(await store.revocations.list_current(now)) == kept
        assert list(await store.revocations.list_current(now + 450)) == kept[:2]
        assert list(await store.revocations.list_current(now + 500)) == kept[:1]
    async with opened_store(stores[0]) as store:
        assert list(await store.revocations.list_current(now)) == kept, "they outlive the process"


@with_stores(*((kind,) for kind in STORE_KINDS))
async def test_a_link_is_claimed_once(stores: list[StoreSettings]) -> None:
    now = time.time()
    async with opened_store(stores[0]) as store, opened_store(stores[0]) as other:
        async with asyncio.TaskGroup() as group:
            claims = [
                group.create_task((store, other)[number % 2].revocations.claim_link("one", now + 60))
                for number in range(20)
            ]
        assert sum(claim.result() for claim in claims) == 1
        assert await store.revocations.claim_link("two", now + 60), "each link is claimed by itself"
        assert list(await store.revocations.list_current(now)) == [], "that a link was used concerns no other process"
        kept = [Revocation("prolonged", "one", 0.0, now + 90), Revocation("link", "one", now, now + 80)]
        for entry in kept:
            await store.revocations.add(entry)
        found = [(one.kind, one.value) for one in await store.revocations.list_current(now)]
        assert found == [("link", "one"), ("prolonged", "one")]
        await store.revocations.release_link("one")
        await store.revocations.release_link("none")
        assert await other.revocations.claim_link("one", now + 60)
        assert not await other.revocations.claim_link("two", now + 60)


@with_stores(*((kind,) for kind in STORE_KINDS))
async def test_links_push_out_no_revocations_of_tokens(
    stores: list[StoreSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("gridfs", "files"):
        monkeypatch.setattr(f"services.common.store.{kind}.revocation_store.MAX_REVOCATIONS", 4)
    now = float(round(time.time()))
    async with opened_store(stores[0]) as store:
        await store.revocations.add(Revocation("token", "lost", now, now + 60))
        await store.revocations.add(Revocation("link", "stopped", now, now + 60))
        for number in range(6):
            await store.revocations.add(Revocation("prolonged", str(number), 0.0, now + 600 + number))
        found = [(one.kind, one.value) for one in await store.revocations.list_current(now)]
        assert found == [("token", "lost"), ("link", "stopped"), *(("prolonged", str(one)) for one in (5, 4, 3))]


@with_stores(("files-sqlite",), ("files-postgresql",))
async def test_ended_revocations_are_deleted(stores: list[StoreSettings]) -> None:
    """By the database's clock, when another one is added. MongoDB deletes by itself, once a minute."""
    now = time.time()
    ended = Revocation("token", "ended", now - 9, now - 1)
    async with opened_store(stores[0]) as store:
        await store.revocations.add(ended)
        assert list(await store.revocations.list_current(now - 5)) == [ended]
        await store.revocations.add(Revocation("token", "current", now, now + 60))
        assert [one.value for one in await store.revocations.list_current(now - 5)] == ["current"]


@with_stores(*((kind,) for kind in STORE_KINDS))
async def test_concurrent_revocations_of_one_subject(stores: list[StoreSettings]) -> None:
    now = float(round(time.time()))
    many = [Revocation("subject", "alice", now + number, now + 60) for number in range(20)]
    async with opened_store(stores[0]) as store, opened_store(stores[0]) as other:
        async with asyncio.TaskGroup() as group:
            for number, revocation in enumerate(many):
                group.create_task((store, other)[number % 2].revocations.add(revocation))
        (found,) = await store.revocations.list_current(now)
        assert found in many
