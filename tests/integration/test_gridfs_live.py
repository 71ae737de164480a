"""What only MongoDB leaves behind: segments that do not count, deletions that were interrupted, late writes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import Conflict, ServiceUnavailable
from services.common.media import MediaName
from services.common.store.gridfs import live_documents
from services.common.store.gridfs.live_garbage import LiveGarbage
from services.common.store.gridfs.live_messages import RECOUNT_AFTER_SECONDS, GridFSLiveMessages
from services.common.store.live_messages import MAX_MESSAGE_DATA_IN_ALL, MessagePlace, NewMessage, TooManyMessages
from tests.support.databases import PreparedDatabases, ServerProcess
from tests.support.live_streams import begin_stream, epoch, progress, segment
from tests.support.store_adapters import GridFSAdapters, open_gridfs

pytestmark = pytest.mark.anyio


@pytest.fixture
async def adapters(mongod: ServerProcess, prepared_databases: PreparedDatabases) -> AsyncIterator[GridFSAdapters]:
    with prepared_databases.use() as database:
        async with open_gridfs(mongod.url, database, "motor") as adapters:
            yield adapters


def write_parts(adapters: GridFSAdapters, token: int, *numbers: int, mark: int) -> None:
    """As a writer that is killed before its segments and its epoch count."""
    added = progress(numbers[0], numbers[-1], epochs=(epoch(0, b"left"),), mark=mark)
    for query, update in live_documents.parts_of("s", token, added):
        adapters.inspector.db["live_segments"].update_one(query, update, upsert=True)


async def test_what_a_killed_writer_has_left_does_not_count_and_is_replaced(adapters: GridFSAdapters) -> None:
    await begin_stream(adapters)
    write_parts(adapters, 1, 0, 1, 2, mark=1)
    found = await adapters.live.set_publisher("s", 2, "p")
    assert (found.epochs, found.position.last_segment) == ((), -1)
    assert not await adapters.live.read_segments("s", 0)
    await adapters.live.advance("s", 2, progress(0, 1, epochs=(epoch(0),)))
    assert list(await adapters.live.read_segments("s", 0)) == [segment(0), segment(1)]
    assert (await adapters.live.set_publisher("s", 2, "p")).epochs == (epoch(0),)
    await adapters.live.advance("s", 3, progress(2, 2))
    assert list(await adapters.live.read_segments("s", 2)) == [segment(2)]


async def test_a_late_write_of_an_older_writer_changes_nothing_that_counts(adapters: GridFSAdapters) -> None:
    await begin_stream(adapters)
    await adapters.live.advance("s", 2, progress(0, 1, epochs=(epoch(0),)))
    with pytest.raises(Exception, match="duplicate key"):
        write_parts(adapters, 1, 0, 1, mark=1)
    assert list(await adapters.live.read_segments("s", 0)) == [segment(0), segment(1)]
    assert (await adapters.live.set_publisher("s", 2, "p")).epochs == (epoch(0),)


async def test_a_writer_that_is_fenced_off_after_it_has_looked(
    adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one has stored the same numbers meanwhile."""
    await begin_stream(adapters)
    original = adapters.live._write  # type: ignore[attr-defined]

    async def fenced(parts: Any) -> None:
        write_parts(adapters, 2, 0, mark=7)
        await original(parts)

    monkeypatch.setattr(adapters.live, "_write", fenced)
    with pytest.raises(Conflict):
        await adapters.live.advance("s", 1, progress(0, 0, epochs=(epoch(0),)))
    assert not await adapters.live.read_segments("s", 0)
    await adapters.live.advance("s", 2, progress(0, -1))
    (left,) = adapters.inspector.db["live_segments"].find({"n": 0})
    assert live_documents.decode_segment(left) == segment(0, mark=7)


async def test_an_interrupted_deletion_is_completed(adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin_stream(adapters)
    await begin_stream(adapters, "other", MediaName("f", "other"))
    for stream_id in ("s", "other"):
        await adapters.live.advance(stream_id, 1, progress(0, 4, epochs=(epoch(0),)))

    class Killed(Exception):
        """The process ends here."""

    async def killed(_: LiveGarbage, stream_id: str) -> None:
        raise Killed(stream_id)

    with monkeypatch.context() as patched:
        patched.setattr(LiveGarbage, "_delete_parts", killed)
        with pytest.raises(Killed):
            await adapters.live.delete_stream("s")
    assert await adapters.live.get_stream("s") is None
    assert not await adapters.live.read_segments("s", 0)
    assert adapters.inspector.count_live() == (2, 12)
    await adapters.keeper.delete_orphans()
    assert adapters.inspector.count_live() == (1, 6)


async def test_messages_without_a_stream_are_deleted(adapters: GridFSAdapters) -> None:
    """One that was counted before its stream was deleted, and inserted after it."""
    messages = adapters.inspector.db["live_messages"]
    await begin_stream(adapters, "z")
    for stream in ("a", "s", "z"):
        messages.insert_many([{"_id": f"{stream} {number}", "l": stream, "t": 0, "n": number} for number in range(3)])
    for _ in range(2):
        await adapters.keeper.delete_orphans()
        assert sorted(messages.distinct("l")) == ["z"]
    assert messages.count_documents({}) == 3


async def test_a_message_that_was_counted_and_never_written_gives_its_share_back(
    adapters: GridFSAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was killed in between. While others may still be written nothing is given back."""
    await begin_stream(adapters)
    await adapters.live.advance("s", 1, progress(0, 4, epochs=(epoch(0),)))
    streams = adapters.inspector.db["live"]

    async def add(name: str, data: str = "{}") -> MessagePlace:
        stored, _ = await adapters.messages.add_message("s", NewMessage(name, "chat.said", data, 0), 3)
        return stored.place

    async def killed(*_: object) -> None:
        raise ServiceUnavailable("killed")

    first = await add("a")
    with monkeypatch.context() as patched:
        patched.setattr(GridFSLiveMessages, "_find_epoch", killed)
        for name, data in (("b", "{}"), ("c", json.dumps("x" * (MAX_MESSAGE_DATA_IN_ALL - 10)))):
            with pytest.raises(ServiceUnavailable):
                await add(name, data)
    with pytest.raises(TooManyMessages):
        await add("d")
    streams.update_one({}, [{"$set": {"counted_at": {"$subtract": ["$counted_at", RECOUNT_AFTER_SECONDS * 1000]}}}])
    second, third = await add("d"), await add("e")
    assert first < second < third, "no number comes twice"
    for age in (0, RECOUNT_AFTER_SECONDS):
        streams.update_one({}, [{"$set": {"counted_at": {"$subtract": ["$counted_at", age * 1000]}}}])
        with pytest.raises(TooManyMessages):
            await add("f")
    found = streams.find_one({})
    assert found is not None
    assert (found["messages"], found["messages_lost"], found["message_bytes"]) == (5, 2, 6)


async def test_segments_without_a_stream_are_deleted(adapters: GridFSAdapters) -> None:
    """A writer that was paused writes them after the stream was deleted."""
    await begin_stream(adapters)
    await begin_stream(adapters, "z", MediaName("f", "other"))
    await adapters.live.advance("z", 1, progress(0, 4))
    await adapters.live.delete_stream("s")
    write_parts(adapters, 1, 0, 1, 2, mark=1)
    assert adapters.inspector.count_live() == (1, 9)
    for _ in range(2):
        await adapters.keeper.delete_orphans()
        assert adapters.inspector.count_live() == (1, 5)
