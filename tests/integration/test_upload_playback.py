"""The contract of `UploadPlayback`: the same tests for every store, on real databases."""

import asyncio
import os

import pytest

from services.common.media import MediaName
from services.common.store.errors import CorruptFile
from services.common.store.files.upload_playback import FilesUploadPlayback
from services.common.store.gridfs.upload_playback import GridFSUploadPlayback
from services.common.store.play_addresses import PlayAddress, make_play_address, parse_play_address
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_playback import GrowingUpload, PlayedFile, UploadPlayback
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
    UploadHandle,
)
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, FilesAdapters, GridFSAdapters, StoreAdapters, finished_upload

pytestmark = pytest.mark.anyio

DATA = os.urandom(2 * CHUNK_SIZE + 5000)
BLOCKS = [DATA[:CHUNK_SIZE], DATA[CHUNK_SIZE : 2 * CHUNK_SIZE], DATA[2 * CHUNK_SIZE :]]


def playback_of(adapters: StoreAdapters) -> UploadPlayback:
    """The reading side of the same store."""
    if isinstance(adapters, GridFSAdapters):
        return GridFSUploadPlayback(adapters.mongo)
    assert isinstance(adapters, FilesAdapters)
    return FilesUploadPlayback(adapters.files)


def address_of(upload: UploadHandle) -> PlayAddress:
    """The play address of an upload."""
    found = parse_play_address(make_play_address(upload.upload_id) or "")
    assert found is not None
    return found


async def find_growing(adapters: StoreAdapters, address: PlayAddress) -> GrowingUpload:
    found = await playback_of(adapters).find(address)
    assert isinstance(found, GrowingUpload)
    return found


async def until_gone(playback: UploadPlayback, address: PlayAddress) -> None:
    """Wait until nothing is found any more."""
    async with asyncio.timeout(10):
        for _ in range(200):
            if await playback.find(address) is None:
                return
            await asyncio.sleep(0.05)
    pytest.fail("still found")


async def stored_file(adapters: StoreAdapters, upload: UploadHandle, outcome_ttl: float | None) -> StoredFile:
    """The file of `DATA`."""
    await adapters.store.write_blocks(upload, 0, BLOCKS)
    plain = finished_upload(DATA)
    return StoredFile(plain.length, plain.content_type, plain.sha256, outcome_ttl=outcome_ttl)


@pytest.mark.parametrize("tail", [0, 1, 1000, CHUNK_SIZE - 1])
@pytest.mark.parametrize("ttl", [None, 60])
async def test_what_is_below_the_offset_is_read(adapters: StoreAdapters, tail: int, ttl: float | None) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(len(DATA), ttl))
    address = address_of(upload)
    assert (await find_growing(adapters, address)).offset == 0
    data = os.urandom(3 * CHUNK_SIZE)
    offset = 2 * CHUNK_SIZE + tail
    await adapters.store.write_blocks(upload, 0, [data[:CHUNK_SIZE], data[CHUNK_SIZE : 2 * CHUNK_SIZE]])
    await adapters.store.set_offset(upload, offset, data[2 * CHUNK_SIZE : offset], len(DATA), keep_lease=True)
    found = await find_growing(adapters, address)
    assert (found.offset, found.length, found.whole_blocks, found.tail_length) == (offset, len(DATA), 2, tail)
    playback = playback_of(adapters)
    assert b"".join(await playback.read_blocks(found, 0, 1)) == data[: 2 * CHUNK_SIZE]
    assert await playback.read_blocks(found, 1, 1) == [data[CHUNK_SIZE : 2 * CHUNK_SIZE]]
    assert await playback.read_tail(found) == data[2 * CHUNK_SIZE : offset]
    with pytest.raises(CorruptFile):
        await playback.read_blocks(found, 1, 4)


async def test_the_address_stays_while_writers_change(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    address = address_of(upload)
    await adapters.store.write_blocks(upload, 0, BLOCKS[:1])
    await adapters.store.set_offset(upload, CHUNK_SIZE, b"", None, keep_lease=True)
    for number in (1, 2):
        acquired = await adapters.store.acquire(upload.upload_id)
        assert isinstance(acquired, tuple)
        handle = acquired[0]
        assert address_of(handle) == address
        await adapters.store.write_blocks(handle, number, BLOCKS[number : number + 1])
        end = min((number + 1) * CHUNK_SIZE, len(DATA))
        await adapters.store.set_offset(handle, end, DATA[end - end % CHUNK_SIZE : end], None, keep_lease=False)
    found = await find_growing(adapters, address)
    playback = playback_of(adapters)
    assert b"".join(await playback.read_blocks(found, 0, 1)) + (await playback.read_tail(found) or b"") == DATA


@pytest.mark.parametrize(("ttl", "outcome_ttl"), [(60, None), (None, 60)])
async def test_the_file_is_found_after_the_commit(
    adapters: StoreAdapters, ttl: float | None, outcome_ttl: float | None
) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(len(DATA), ttl))
    address = address_of(upload)
    event = await adapters.store.commit(upload, await stored_file(adapters, upload, outcome_ttl))
    assert await playback_of(adapters).find(address) == PlayedFile(event.info)
    await adapters.store_file(b"another", NAME)
    assert await playback_of(adapters).find(address) is None


async def test_without_a_time_of_its_own_the_address_ends_with_the_upload(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(len(DATA)))
    await adapters.store.commit(upload, await stored_file(adapters, upload, None))
    assert await playback_of(adapters).find(address_of(upload)) is None


async def test_the_outcome_ends_and_leaves_nothing(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(len(DATA)))
    event = await adapters.store.commit(upload, await stored_file(adapters, upload, 0.3))
    playback, address = playback_of(adapters), address_of(upload)
    await until_gone(playback, address)
    await adapters.store.ack_event(event)
    await adapters.store.delete(NAME)
    async with asyncio.timeout(10):
        while not adapters.inspector.has_no_garbage():
            await adapters.collect_once()
            await asyncio.sleep(0.05)


async def test_a_nameless_upload_keeps_its_address_when_it_gets_a_name(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(None, NewUpload())
    address = address_of(upload)
    await adapters.store.write_blocks(upload, 0, BLOCKS[:1])
    await adapters.store.set_offset(upload, CHUNK_SIZE, b"", None, keep_lease=True)
    assert (await find_growing(adapters, address)).offset == CHUNK_SIZE
    stored = await stored_file(adapters, upload, 60)
    named = await adapters.store.assign_name(upload, NAME, outcome_ttl=0.5)
    assert isinstance(await playback_of(adapters).find(address), GrowingUpload)
    event = await adapters.store.commit(named, stored)
    assert await playback_of(adapters).find(address) == PlayedFile(event.info)
    assert await adapters.store.get_info(upload.upload_id) is None or isinstance(adapters, FilesAdapters)
    async with asyncio.timeout(10):  # the document that it had without a name is collected
        while len(adapters.inspector.list_documents()) > 1:
            await adapters.collect_once()
            await asyncio.sleep(0.05)


async def test_an_aborted_upload_is_not_found(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    await adapters.store.abort(upload)
    assert await playback_of(adapters).find(address_of(upload)) is None
    lost = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    await adapters.store.abort(lost, name_taken=True)
    assert await playback_of(adapters).find(address_of(lost)) is None


async def test_an_expired_upload_is_not_found_though_it_was_not_collected(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 0.2))
    address, playback = address_of(upload), playback_of(adapters)
    await adapters.store.release_lease(upload)
    await until_gone(playback, address)


async def test_the_tag_decides_and_the_file_may_move(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    other = await adapters.store.create_upload(MediaName("f", "other"), NewUpload(None, 60))
    address, playback = address_of(upload), playback_of(adapters)
    for wrong in (address._replace(tag="0" * 32), address._replace(tag=address_of(other).tag)):
        assert await playback.find(wrong) is None
    await adapters.store.commit(upload, await stored_file(adapters, upload, None), NO_PRECONDITIONS)
    assert isinstance(await playback.find(address), PlayedFile)
    assert await playback.find(address._replace(tag="0" * 32)) is None
