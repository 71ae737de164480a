"""services.stream.read where the store keeps everybody waiting."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.media import MediaInfo
from services.stream.cache import BlockCache
from services.stream.outlet import Patience
from services.stream.read import FileStream
from services.stream.reply import Representation, represent

pytestmark = pytest.mark.anyio

FILE = MediaInfo("m", "1", "", "a", 200_000, "video/webm", "00", datetime(2026, 11, 20, tzinfo=UTC))


class Store:
    """It knows the file and never gives a block."""

    block_size = 255 * 1024

    async def find(self, *_: Any, **__: Any) -> Representation:
        return represent(FILE)

    async def fetch(self, *_: Any) -> list[bytes]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_store_that_is_slow_is_no_client_that_stalls() -> None:
    """503 and not an answer that never began, of which the server would make a 500."""
    store: Any = Store()
    patience = Patience(0.08)
    clock = asyncio.create_task(patience.run())
    cache = BlockCache(store, 10**7)
    flow = FileStream(store, cache, patience)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"method": "GET", "query_string": b"filename=a", "headers": []}
    with pytest.raises(Unavailable):
        await asyncio.create_task(_call(flow, scope, receive, send))
    assert sent == []
    clock.cancel()
    await cache.aclose()


async def _call(flow: FileStream, *arguments: Any) -> None:
    async with asyncio.timeout(5):
        await flow(*arguments)
