"""The flow of a resumable upload over a store that goes away, or shows what is not durable yet."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from services.common.errors import Conflict, Unavailable
from services.common.media import MediaName
from services.common.mongo import Mongo, open_mongo
from services.common.store.documents import Times
from services.common.store.gridfs import GridFSStore
from services.common.store.port import Ended, Open, Plan
from services.common.web import Message
from services.upload.body import Body
from services.upload.limits import Limits
from services.upload.patches import Patch
from services.upload.progress import NoProgress
from services.upload.resume import Resumer
from tests.servers import Server
from tests.uploads import Store, opened

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
    limits = Limits(most=1, max_length=10, floor=0, media_types=())
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
