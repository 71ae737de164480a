"""The contract of `GrowingFiles`: the same tests for every store, on real databases."""

import asyncio
import hashlib
import os

import pytest

from services.common.errors import Conflict
from services.common.store.growing_files import MAX_DURABLE_READ_BYTES, file_etag
from services.common.store.preconditions import NO_PRECONDITIONS
from services.common.store.upload_store import (
    NewUpload,
    StoredFile,
    UploadHandle,
)
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, StoreAdapters, finished_upload

pytestmark = pytest.mark.anyio

HEADER = b"\x01" * CHUNK_SIZE
MEDIA = [os.urandom(CHUNK_SIZE), os.urandom(1000)]


async def begin(adapters: StoreAdapters) -> UploadHandle:
    """An upload whose block 0 is free."""
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    await adapters.store.write_blocks(upload, 1, MEDIA)
    return upload


async def acquire(adapters: StoreAdapters, upload: UploadHandle) -> UploadHandle:
    """A newer handle."""
    acquired = await adapters.store.acquire(upload.upload_id)
    assert isinstance(acquired, tuple)
    return acquired[0]


async def commit_and_read(adapters: StoreAdapters, upload: UploadHandle) -> bytes:
    """Commit without a digest, and read the file."""
    length = CHUNK_SIZE + sum(map(len, MEDIA))
    event = await adapters.store.commit(upload, StoredFile(length, "video/mp4", None, file_etag(upload, length)))
    assert event.info.etag == f'"{event.info.file_id}-{length}"'
    return b"".join(await adapters.reader.read_blocks(event.info, 0, 2))


async def test_the_header_is_placed_last_and_the_file_is_whole(adapters: StoreAdapters) -> None:
    upload = await begin(adapters)
    await adapters.growing.place_header(upload, HEADER)
    await adapters.growing.place_header(upload, HEADER)
    assert await commit_and_read(adapters, upload) == b"".join([HEADER, *MEDIA])
    with pytest.raises(Conflict):
        await adapters.growing.place_header(upload, HEADER[::-1])


@pytest.mark.parametrize("header", [b"", HEADER[1:], HEADER + b"x"])
async def test_a_header_is_one_block(adapters: StoreAdapters, header: bytes) -> None:
    with pytest.raises(ValueError, match="a header has"):
        await adapters.growing.place_header(await begin(adapters), header)


async def test_the_header_of_an_older_writer_is_replaced_and_never_comes_back(adapters: StoreAdapters) -> None:
    old = await begin(adapters)
    await adapters.growing.place_header(old, HEADER[:-1] + b"\x02")
    new = await acquire(adapters, old)
    with pytest.raises(Conflict):
        await adapters.growing.place_header(old, HEADER[:-1] + b"\x03")
    await adapters.growing.place_header(new, HEADER)
    with pytest.raises(Conflict):
        await adapters.growing.place_header(old, HEADER[:-1] + b"\x02")
    assert await commit_and_read(adapters, new) == b"".join([HEADER, *MEDIA])


async def test_of_two_writers_at_the_same_time_the_newer_one_wins(adapters: StoreAdapters) -> None:
    upload = await begin(adapters)
    for _ in range(10):
        old = upload

        async def take_over(older: UploadHandle = old) -> UploadHandle:
            newer = await acquire(adapters, older)
            await adapters.growing.place_header(newer, HEADER)
            return newer

        late = adapters.growing.place_header(old, os.urandom(CHUNK_SIZE))
        outcome, newer = await asyncio.gather(late, take_over(), return_exceptions=True)
        assert outcome is None or isinstance(outcome, Conflict)
        assert isinstance(newer, UploadHandle)
        upload = newer
    assert await commit_and_read(adapters, upload) == b"".join([HEADER, *MEDIA])


@pytest.mark.parametrize("tail", [0, 1, 5000, CHUNK_SIZE - 1])
async def test_what_is_durable_is_read_and_nothing_else(adapters: StoreAdapters, tail: int) -> None:
    data = os.urandom(4 * CHUNK_SIZE)
    offset = 2 * CHUNK_SIZE + tail
    upload = await adapters.store.create_upload(NAME, NewUpload(len(data), 60))
    blocks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
    await adapters.store.write_blocks(upload, 0, blocks[:3])
    await adapters.store.set_offset(upload, offset, data[2 * CHUNK_SIZE : offset], len(data), keep_lease=True)
    ranges = [(0, 10), (0, len(data)), (5, 2 * CHUNK_SIZE), (CHUNK_SIZE, CHUNK_SIZE), (CHUNK_SIZE - 1, 2), (offset, 9)]
    ranges += [
        (2 * CHUNK_SIZE - 1, 3),
        (2 * CHUNK_SIZE, tail),
        (2 * CHUNK_SIZE + 1, 7),
        (3 * CHUNK_SIZE, 1),
        (9**15, 1),
    ]
    for start, count in ranges:
        found = await adapters.growing.read_durable(upload.upload_id, start, count)
        assert found is not None
        assert found.data == data[start : min(start + count, offset)], (start, count)
        assert (found.offset, found.length) == (offset, len(data))


async def test_one_call_reads_a_bounded_number_of_bytes(adapters: StoreAdapters) -> None:
    data = bytes(18 * CHUNK_SIZE)
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    await adapters.store.write_blocks(upload, 0, [data[:CHUNK_SIZE]] * 18)
    await adapters.store.set_offset(upload, len(data), b"", None, keep_lease=False)
    found = await adapters.growing.read_durable(upload.upload_id, 1, len(data))
    assert found is not None
    assert (len(found.data), found.length) == (MAX_DURABLE_READ_BYTES, None)


async def test_a_reader_follows_a_writer_and_its_successors(adapters: StoreAdapters) -> None:
    """Each read is a piece of what was sent, whatever tail was replaced at that moment."""
    data = os.urandom(3 * CHUNK_SIZE)
    upload = await adapters.store.create_upload(NAME, NewUpload(len(data), 60))
    upload_id = upload.upload_id

    async def write() -> None:
        handle = upload
        for offset in range(CHUNK_SIZE // 4, len(data) + 1, CHUNK_SIZE // 4):
            if offset % CHUNK_SIZE == 0:
                handle = await acquire(adapters, handle)
                number = offset // CHUNK_SIZE - 1
                await adapters.store.write_blocks(handle, number, [data[number * CHUNK_SIZE :][:CHUNK_SIZE]])
            tail = data[offset - offset % CHUNK_SIZE : offset]
            await adapters.store.set_offset(handle, offset, tail, len(data), keep_lease=offset % 2 == 0)

    writing = asyncio.create_task(write())
    received = b""
    async with asyncio.timeout(60):
        while len(received) < len(data):
            found = await adapters.growing.read_durable(upload_id, len(received), len(data))
            assert found is not None
            received += found.data
            await asyncio.sleep(0)
    await writing
    assert received == data


@pytest.mark.parametrize("upload_id", ["", "-", "x-y", "a" * 24 + "-" + "b" * 24])
async def test_what_is_no_unfinished_upload_is_not_read(adapters: StoreAdapters, upload_id: str) -> None:
    assert await adapters.growing.read_durable(upload_id, 0, 1) is None


async def test_an_upload_that_was_committed_is_read_as_a_file(adapters: StoreAdapters) -> None:
    upload = await adapters.store_file(b"done")
    assert await adapters.growing.read_durable(upload.upload_id, 0, 1) is None


async def test_a_digest_comes_later_and_changes_neither_tag_nor_revision(adapters: StoreAdapters) -> None:
    digest = hashlib.sha256(b"live").hexdigest()
    upload = await adapters.store.create_upload(NAME, NewUpload(ttl=60))
    await adapters.store.write_blocks(upload, 0, [b"live"])
    before = (await adapters.store.commit(upload, StoredFile(4, "video/mp4", None, '"live-1"'))).info
    assert await adapters.growing.set_sha256(before, digest)
    assert not await adapters.growing.set_sha256(before, "0" * 64)
    after = await adapters.reader.find(NAME)
    assert after is not None
    assert (after.sha256, after.etag, after.revision) == (digest, '"live-1"', before.revision)
    assert after.uploaded_at == before.uploaded_at


async def test_a_version_that_was_replaced_gets_no_digest(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(ttl=60))
    old = (await adapters.store.commit(upload, StoredFile(0, "video/mp4", None, '"live-1"'))).info
    await adapters.store_file(b"new", expected=NO_PRECONDITIONS)
    assert not await adapters.growing.set_sha256(old, "0" * 64)
    found = await adapters.reader.find(NAME)
    assert found is not None
    assert found.sha256 == finished_upload(b"new").sha256
