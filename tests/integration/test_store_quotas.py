"""Quotas of owners, over every store: what is reserved, settled and released, by any number of processes, and after kills."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.common.errors import AlreadyExists, PreconditionFailed, ServiceUnavailable, TooManyRequests
from services.common.media import MediaName, Poster
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.growing_files import file_etag
from services.common.store.media_reader import ListQuery
from services.common.store.preconditions import NO_PRECONDITIONS, Preconditions
from services.common.store.quotas import Quota, QuotaExceeded
from services.common.store.timings import StoreTimings
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
    UploadHandle,
)
from tests.support.opened_stores import STORE_KINDS, opened_store, with_stores

pytestmark = [pytest.mark.anyio, with_stores(*((kind,) for kind in STORE_KINDS))]
TIMINGS = StoreTimings(lease_ttl=0.5, tombstone_ttl=0.0, second_purge_after=0.1, outbox_retry_after=0)
PATIENT = StoreTimings(lease_ttl=30.0, tombstone_ttl=0.0, outbox_retry_after=0)
ALICE, BOB = "$alice\0é", "bob"


@pytest.fixture
def settings(stores: list[StoreSettings]) -> StoreSettings:
    return stores[0]


@pytest.fixture
async def store(settings: StoreSettings) -> AsyncIterator[MediaStore]:
    async with opened_store(settings, PATIENT, Quota(max_bytes=100)) as opened:
        yield opened


def owned(length: int | None, owner: str = ALICE, ttl: float | None = 60) -> NewUpload:
    return NewUpload(length, ttl, owner=owner)


def name(text: str) -> MediaName:
    return MediaName("f", text)


async def begin(store: MediaStore, text: str, length: int | None, owner: str = ALICE) -> UploadHandle:
    return await store.uploads.create_upload(name(text), owned(length, owner), NO_PRECONDITIONS)


async def finish(store: MediaStore, upload: UploadHandle, length: int) -> None:
    data = b"x" * length
    if data:
        await store.uploads.write_blocks(upload, 0, [data])
    stored = StoredFile(length, "text/plain", hashlib.sha256(data).hexdigest())
    await store.uploads.commit(upload, stored, NO_PRECONDITIONS)


async def put(store: MediaStore, text: str, length: int, owner: str = ALICE) -> None:
    await finish(store, await begin(store, text, length, owner), length)


async def room_is(store: MediaStore, expected: int, owner: str = ALICE) -> None:
    """The owner may begin an upload of `expected` bytes, and of not one more."""
    with pytest.raises(QuotaExceeded):
        await begin(store, "probe", expected + 1, owner)
    await store.uploads.abort(await begin(store, "probe", expected, owner))


async def test_bytes_are_reserved_settled_and_released(store: MediaStore) -> None:
    await room_is(store, 100)
    upload = await begin(store, "a", 60)
    await room_is(store, 40)
    await room_is(store, 100, BOB)
    await finish(store, upload, 60)
    await room_is(store, 40)
    aborted = await begin(store, "b", 40)
    await room_is(store, 0)
    await store.uploads.abort(aborted)
    await room_is(store, 40)
    # An upload that began with a length, and a file that was shorter: what is stored counts.
    await finish(store, await begin(store, "c", 40), 10)
    await room_is(store, 30)
    await put(store, "c", 20)  # replaces a file of the same owner
    await room_is(store, 20)
    await put(store, "a", 5, BOB)  # and one of another
    await room_is(store, 80)
    await room_is(store, 95, BOB)
    assert await store.uploads.delete(name("c")) is not None
    await room_is(store, 100)
    await put(store, "free", 1000, "")  # what has no owner is not limited


def poster(length: int) -> Poster:
    data = b"p" * length
    return Poster(data, "image/png", hashlib.sha256(data).hexdigest())


async def test_posters_count_for_the_owner_of_their_file(store: MediaStore) -> None:
    """Set, replaced by a shorter one, refused, removed; with the file they are deleted, restored, moved and replaced."""
    await put(store, "a", 50)
    assert await store.uploads.set_poster(name("a"), poster(20)) is not None
    await room_is(store, 30)
    with pytest.raises(QuotaExceeded):
        await store.uploads.set_poster(name("a"), poster(51))
    await room_is(store, 30)
    assert await store.uploads.set_poster(name("a"), poster(10)) is not None
    await room_is(store, 40)
    assert await store.uploads.set_poster(name("none"), poster(10)) is None
    with pytest.raises(PreconditionFailed):
        await store.uploads.set_poster(name("a"), poster(10), Preconditions(etag_in=frozenset({'"other"'})))
    await room_is(store, 40)
    assert await store.garbage.count_quotas() == 1
    await room_is(store, 40)
    await store.uploads.move_file(name("a"), name("b"))
    await room_is(store, 40)
    await store.uploads.set_poster(name("b"), None)
    await room_is(store, 50)
    await store.uploads.set_poster(name("b"), poster(10))
    await put(store, "b", 5, BOB)  # replaces file and poster
    await room_is(store, 100)
    await room_is(store, 95, BOB)
    await put(store, "free", 10, "")
    assert await store.uploads.set_poster(name("free"), poster(1000)) is not None, "what has no owner is not limited"


async def test_a_poster_is_deleted_and_restored_with_its_file(settings: StoreSettings) -> None:
    keeping = StoreTimings(lease_ttl=30.0, tombstone_ttl=60.0, outbox_retry_after=0)
    async with opened_store(settings, keeping, Quota(max_bytes=100)) as store:
        await put(store, "a", 50)
        await store.uploads.set_poster(name("a"), poster(20))
        await store.uploads.delete(name("a"))
        await room_is(store, 100)
        await store.uploads.restore(name("a"))
        await room_is(store, 30)


async def test_a_poster_needs_no_place_among_the_uploads(settings: StoreSettings) -> None:
    async with opened_store(settings, PATIENT, Quota(max_bytes=100, max_uploads=1)) as store:
        await put(store, "a", 10)
        upload = await begin(store, "b", 10)
        await store.uploads.set_poster(name("a"), poster(10))
        with pytest.raises(TooManyRequests):
            await begin(store, "c", 1)
        await finish(store, upload, 10)
        await room_is(store, 70)


async def test_an_upload_that_is_refused_reserves_nothing(store: MediaStore) -> None:
    await put(store, "a", 50)
    for _ in range(3):
        with pytest.raises(AlreadyExists):
            await store.uploads.create_upload(name("a"), owned(50))
        with pytest.raises(QuotaExceeded):
            await begin(store, "b", 51)
    await room_is(store, 50)


async def test_an_upload_of_unknown_length_grows(store: MediaStore) -> None:
    await put(store, "a", 50)
    upload = await store.uploads.create_upload(None, owned(None, ttl=None))
    await store.uploads.reserve(upload, 30)
    await store.uploads.reserve(upload, 10)  # never less than before
    await room_is(store, 20)
    with pytest.raises(QuotaExceeded):
        await store.uploads.reserve(upload, 51)
    await store.uploads.reserve(upload, 50)
    named = await store.uploads.assign_name(upload, name("form"))
    await room_is(store, 0)
    assert await store.garbage.count_quotas() == 1
    await room_is(store, 0)
    await finish(store, named, 45)
    await room_is(store, 5)


async def test_a_live_stream_reserves_as_it_grows(store: MediaStore) -> None:
    """Its next writer goes on with what is reserved; it ends as a file, and nothing more is reserved."""
    upload = await begin(store, "live", None)
    await store.uploads.reserve(upload, 40)
    taken = await store.uploads.acquire(upload.upload_id)
    assert isinstance(taken, tuple)
    await store.uploads.reserve(taken[0], 60)
    with pytest.raises(QuotaExceeded):
        await store.uploads.reserve(taken[0], 101)
    await room_is(store, 40)
    await store.uploads.write_blocks(taken[0], 0, [b"x" * 55])
    await store.uploads.commit(taken[0], StoredFile(55, "video/mp4", None, file_etag(taken[0], 55)))
    await room_is(store, 45)


async def test_unfinished_uploads_are_limited(settings: StoreSettings) -> None:
    async with opened_store(settings, PATIENT, Quota(max_uploads=2)) as store:
        first, second = await begin(store, "a", 10), await begin(store, "b", None)
        for _ in range(2):
            with pytest.raises(TooManyRequests):
                await begin(store, "c", 10)
        await begin(store, "other", 10, BOB)
        await finish(store, first, 10)
        third = await begin(store, "c", 10**12)
        with pytest.raises(TooManyRequests):
            await begin(store, "d", 10)
        await store.uploads.abort(second)
        await store.uploads.abort(third)
        await asyncio.gather(begin(store, "e", 1), begin(store, "f", 1))


async def test_what_was_stored_without_a_quota_is_counted(settings: StoreSettings) -> None:
    async with opened_store(settings, PATIENT) as unlimited:
        await put(unlimited, "a", 60)
        unfinished = await begin(unlimited, "b", 10)
        async with opened_store(settings, PATIENT, Quota(max_bytes=100)) as store:
            with pytest.raises(QuotaExceeded):
                await begin(store, "c", 41)
            taken = await store.uploads.acquire(unfinished.upload_id)
            assert isinstance(taken, tuple)
            await finish(store, taken[0], 10)
            await room_is(store, 30)
            await put(unlimited, "d", 20)
        async with opened_store(settings, PATIENT, Quota(max_bytes=100)) as store:
            await room_is(store, 10)


async def test_what_a_killed_process_has_reserved_is_released(settings: StoreSettings) -> None:
    """Its uploads are neither continued nor aborted: they expire, and the collector of another process finds them."""
    async with opened_store(settings, TIMINGS, Quota(max_bytes=100, max_uploads=3)) as store:
        await put(store, "kept", 40)
        await store.uploads.create_upload(name("a"), owned(30, ttl=None))
        await store.uploads.create_upload(None, owned(20, ttl=None))
        await store.uploads.create_upload(name("b"), owned(10, ttl=0.2))
        with pytest.raises(TooManyRequests):
            await begin(store, "c", 1)

        async def has_room() -> bool:
            async for media_id in store.garbage.list_due():
                await store.garbage.collect(media_id)
            try:
                await store.uploads.abort(await begin(store, "c", 60))
            except (QuotaExceeded, TooManyRequests, ServiceUnavailable):
                return False
            return True

        deadline = asyncio.get_running_loop().time() + 15
        while not await has_room():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        await room_is(store, 60)


@pytest.mark.parametrize("seed", [1, 2])
async def test_parallel_uploads_never_exceed_the_quota(settings: StoreSettings, seed: int) -> None:
    """Two processes begin, end and delete uploads of two owners at random, while a third counts all the time."""
    limit = 1000
    dice = random.Random(seed)
    held = dict.fromkeys((ALICE, BOB), 0)
    """What each owner has for certain: counted down before the call that releases it, and up after the one that has reserved it."""
    refused = 0

    async with AsyncExitStack() as stack:
        quota = Quota(max_bytes=limit)
        stores = [await stack.enter_async_context(opened_store(settings, PATIENT, quota)) for _ in range(3)]

        async def work(number: int) -> None:
            nonlocal refused
            for turn in range(8):
                store, owner, length = dice.choice(stores[:2]), dice.choice((ALICE, BOB)), dice.randrange(50, 400)
                text = f"{number}-{turn}"
                try:
                    upload = await begin(store, text, length, owner)
                except QuotaExceeded:
                    refused += 1
                    continue
                held[owner] += length
                assert held[owner] <= limit
                way = dice.randrange(3)
                if way == 0:
                    held[owner] -= length
                    await store.uploads.abort(upload)
                    continue
                await finish(store, upload, length)
                if way == 1:
                    held[owner] -= length
                    assert await store.uploads.delete(name(text)) is not None

        async def count(stop: asyncio.Event) -> None:
            while not stop.is_set():
                await stores[2].garbage.count_quotas()
                await asyncio.sleep(0)

        stop = asyncio.Event()
        counting = asyncio.create_task(count(stop))
        await asyncio.gather(*(work(number) for number in range(10)))
        stop.set()
        await counting
        files = (await stores[0].reader.list_files(ListQuery(limit=200))).files
        assert refused
        for owner in (ALICE, BOB):
            stored = sum(file.length for file in files if file.owner == owner)
            assert stored == held[owner] <= limit
            await room_is(stores[1], limit - stored, owner)
