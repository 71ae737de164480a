"""The flow of a resumable upload over a store that goes away, or shows what is not durable yet."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime

import pytest

from services.common.errors import Conflict, Gone, NotFound, Unavailable
from services.common.media import MediaName
from services.common.mongo import Mongo, open_mongo
from services.common.store.documents import Times
from services.common.store.gridfs import GridFSStore
from services.common.store.port import Ended, Open, Plan, Upload
from services.common.web import Message
from services.upload.body import Body
from services.upload.limits import Limits
from services.upload.patches import Patch
from services.upload.progress import NoProgress
from services.upload.resume import Resumer
from tests.servers import Server
from tests.uploads import CHUNK, Store, opened

pytestmark = pytest.mark.anyio
NAME = MediaName("", "n")


class Away(GridFSStore):
    """A store that is away when the upload has just begun."""

    async def peek(self, address: str) -> Open | Ended | None:
        raise Unavailable(address)


class Ahead(GridFSStore):
    """A store in which somebody has just committed, without being told yet that it is durable: a kill undoes it."""

    async def peek(self, address: str) -> Open | Ended | None:
        return Ended("stored", NAME, 5, "00" * 32, {}, datetime.now(UTC))


@pytest.fixture
def seen(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


async def nothing() -> Message:
    return {"type": "http.request", "body": b""}


@pytest.fixture
async def mongo(mongod: Server, database: str) -> AsyncIterator[Mongo]:
    mongo = open_mongo(mongod.uri, database)
    await GridFSStore(mongo).prepare()
    yield mongo
    await mongo.aclose()


def resumer(store: GridFSStore) -> Resumer:
    limits = Limits(most=1, max_length=10 * CHUNK, floor=0, media_types=())
    return Resumer(store, limits, lambda *_: NoProgress(), 60.0)


async def test_a_store_that_is_away_after_the_beginning(mongo: Mongo, seen: Store) -> None:
    before = asyncio.all_tasks()
    away = resumer(Away(mongo, Times(lease=300)))
    with pytest.raises(Unavailable):
        await away.create(NAME, 5, {}, Body(nothing, 0, 30.0), Patch(0, None, 0, ()))
    deadline = time.monotonic() + 5
    while seen.media() or asyncio.all_tasks() != before:
        assert time.monotonic() < deadline, "it is held, and its lease is renewed for nobody"
        await asyncio.sleep(0.02)


async def test_nobody_is_told_of_a_commit_that_is_not_durable(mongo: Mongo) -> None:
    """The client would give its bytes up, and after a kill they would be asked for again."""
    store = Ahead(mongo)
    upload = await store.begin(NAME, Plan(5, 60))
    with pytest.raises(Conflict) as told:
        await resumer(store).patch(upload.address, Body(nothing, 0, 30.0), Patch(5, None, 0, ()))
    assert told.value.headers["upload-offset"] == "0"
    assert await store.take(f"{upload.media}-{upload.media}") is None


class Interrupted(GridFSStore):
    """A store that breaks off the first time when stored bytes are read back."""

    broken = False

    async def read_back(self, upload: Upload, blocks: int) -> AsyncGenerator[bytes, None]:
        async for block in super().read_back(upload, blocks):
            yield block
            if not self.broken:
                self.broken = True
                raise LookupError("what no layer below translates")


class Deposed(GridFSStore):
    """A store in which another takes the upload over and ends it, just before its bytes are read back."""

    async def read_back(self, upload: Upload, blocks: int) -> AsyncGenerator[bytes, None]:
        await resumer(GridFSStore(self._mongo)).end(upload.address)
        async for block in super().read_back(upload, blocks):
            yield block


def sending(data: bytes) -> Body:
    pieces: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return pieces.pop()

    return Body(receive, 0, 30.0)


async def begun(mongo: Mongo, data: bytes) -> str:
    """Two blocks of it are durable, sent to another process."""
    blocks: Sequence[bytes] = (data[:CHUNK], data[CHUNK : 2 * CHUNK])
    store = GridFSStore(mongo)
    upload = await store.begin(NAME, Plan(len(data), 60))
    await store.append(upload, 0, blocks)
    await store.move(upload, 2 * CHUNK, b"", len(data), writing=False)
    return upload.address


async def test_a_hash_of_a_part_is_never_taken_for_the_whole(mongo: Mongo, seen: Store) -> None:
    data = os.urandom(2 * CHUNK + 7)
    address = await begun(mongo, data)
    flow = resumer(Interrupted(mongo))
    patch = Patch(2 * CHUNK, None, 7, ())
    with pytest.raises(LookupError):
        await flow.patch(address, sending(data[2 * CHUNK :]), patch)
    received = await flow.patch(address, sending(data[2 * CHUNK :]), patch)
    assert received.sha256 == hashlib.sha256(data).hexdigest() == seen.one()["current"]["sha256"]


async def test_an_upload_whose_stored_bytes_are_damaged_ends(mongo: Mongo, seen: Store) -> None:
    data = os.urandom(2 * CHUNK + 7)
    address = await begun(mongo, data)
    seen.db["fs.chunks"].delete_one({"n": 1})
    flow = resumer(GridFSStore(mongo))
    with pytest.raises(Gone, match="damaged"):
        await flow.patch(address, sending(data[2 * CHUNK :]), Patch(2 * CHUNK, None, 7, ()))
    with pytest.raises(NotFound):
        await flow.look(address)
    assert seen.chunks() == 0


async def test_an_upload_that_is_ended_while_it_is_read_back(mongo: Mongo) -> None:
    """The one who ended it has deleted its chunks; that is no damage."""
    data = os.urandom(2 * CHUNK + 7)
    address = await begun(mongo, data)
    with pytest.raises(Conflict):
        await resumer(Deposed(mongo)).patch(address, sending(data[2 * CHUNK :]), Patch(2 * CHUNK, None, 7, ()))
