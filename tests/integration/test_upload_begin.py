"""A resumable upload whose creation is broken off: what was begun is taken back, and nobody goes on holding it."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from services.common.errors import Unavailable
from services.common.media import MediaName
from services.common.mongo import open_mongo
from services.common.store.documents import Times
from services.common.store.gridfs import GridFSStore
from services.common.store.port import Ended, Open
from services.common.web import Message
from services.upload.body import Body
from services.upload.limits import Limits
from services.upload.patches import Patch
from services.upload.progress import NoProgress
from services.upload.resume import Resumer
from tests.servers import Server
from tests.uploads import Store, opened

pytestmark = pytest.mark.anyio


class Away(GridFSStore):
    """A store that is away when the upload has just begun."""

    async def peek(self, address: str) -> Open | Ended | None:
        raise Unavailable(address)


@pytest.fixture
def seen(mongod: Server, database: str) -> Iterator[Store]:
    with opened(mongod.uri, database) as store:
        yield store


async def nothing() -> Message:
    return {"type": "http.request", "body": b""}


async def test_a_store_that_is_away_after_the_beginning(mongod: Server, database: str, seen: Store) -> None:
    mongo = open_mongo(mongod.uri, database)
    store = Away(mongo, Times(lease=300))
    await store.prepare()
    before = asyncio.all_tasks()
    limits = Limits(most=1, max_length=10, floor=0, media_types=())
    resumer = Resumer(store, limits, lambda *_: NoProgress(), 60.0)
    with pytest.raises(Unavailable):
        await resumer.create(MediaName("", "n"), 5, {}, Body(nothing, 0, 30.0), Patch(0, None, 0, ()))
    deadline = time.monotonic() + 5
    while seen.media() or asyncio.all_tasks() != before:
        assert time.monotonic() < deadline, "it is held, and its lease is renewed for nobody"
        await asyncio.sleep(0.02)
    await mongo.aclose()
