"""The contract of `LiveMessages`: the same tests for every store, on real databases."""

import asyncio
import json
from dataclasses import replace

import pytest

from services.common.errors import Gone, NotFound
from services.common.live.segments import Epoch
from services.common.store.live_messages import (
    MAX_MESSAGE_DATA_IN_ALL,
    MessagePlace,
    NewMessage,
    NotLive,
    StoredMessage,
    TooManyMessages,
)
from services.common.store.live_store import LivePosition, LiveProgress, LiveState
from tests.support.live_streams import begin_stream, segment
from tests.support.store_adapters import StoreAdapters

pytestmark = pytest.mark.anyio

LIMIT = 100
TIMESCALE = 1000
START = 1_700_000_000.0
ODD = json.dumps({"$set": "\0 \u00e9\u200b\U0001f600", "a.b": ["{", None, 1e308]})
"""Data is text: no field path, no expression, and no character that a database refuses."""


def a_message(name: str, milliseconds: int | None = None, data: str = "{}") -> NewMessage:
    return NewMessage(name, "chat.said", data, milliseconds)


async def reach(adapters: StoreAdapters, milliseconds: int, *epochs: Epoch, stream: str = "s", last: int = 0) -> None:
    """The stream has media up to a time."""
    found = await adapters.live.get_stream(stream)
    assert found is not None
    first = found.position.last_segment + 1
    position = replace(found.position, last_segment=last, file_end=milliseconds, timescale=TIMESCALE)
    segments = [segment(number) for number in range(first, last + 1)]
    await adapters.live.advance(stream, 1, LiveProgress(position, epochs, segments))


async def begin(adapters: StoreAdapters, milliseconds: int = 60_000, state: LiveState = "interrupted") -> None:
    """A stream of two epochs, the second from 20 s on and captured an hour later. Its clock does not go on while interrupted."""
    await begin_stream(adapters)
    epochs = (Epoch(0, b"i", TIMESCALE, 7, 0, START), Epoch(1, b"i", 90_000, 3, 20 * 90_000, START + 3600))
    await reach(adapters, milliseconds, *epochs)
    if state != "live":
        assert await adapters.live.set_state("s", 1, state)


async def places(adapters: StoreAdapters, *arguments: object, **more: object) -> list[tuple[str, int]]:
    found = await adapters.messages.read_messages("s", *arguments, **more)  # type: ignore[arg-type]
    return [(one.id, one.place.milliseconds) for one in found]


async def test_a_message_is_kept_with_its_place(adapters: StoreAdapters) -> None:
    await begin(adapters)
    stored, is_new = await adapters.messages.add_message("s", a_message("!~", None, ODD), LIMIT)
    assert is_new
    assert stored == StoredMessage("!~", "chat.said", ODD, MessagePlace(60_000, 1), 1, START + 3640)
    early, _ = await adapters.messages.add_message("s", a_message("early", 19_999), LIMIT)
    assert (early.place, early.epoch) == (MessagePlace(19_999, 2), 0)
    assert early.date == pytest.approx(START + 19.999)
    seam, _ = await adapters.messages.add_message("s", a_message("seam", 20_000), LIMIT)
    assert (seam.epoch, seam.date) == (1, START + 3600)
    late, _ = await adapters.messages.add_message("s", a_message("late", 1 << 50), LIMIT)
    assert late.place == MessagePlace(60_000, 4), "moved to the end of what is stored"
    assert list(await adapters.messages.read_messages("s", 0)) == [early, seam, stored, late]
    assert not await adapters.messages.read_messages("other", 0)


async def test_while_media_comes_a_message_lies_behind_what_is_stored(adapters: StoreAdapters) -> None:
    await begin(adapters, 60_000, "live")
    await asyncio.sleep(0.05)  # media of this time has not come: the time is the test
    stored, _ = await adapters.messages.add_message("s", a_message("a"), LIMIT)
    assert 60_040 <= stored.place.milliseconds <= 62_000, "by the time since then, a target duration at most"


async def test_a_message_that_is_repeated_is_stored_once(adapters: StoreAdapters) -> None:
    await begin(adapters)
    first, _ = await adapters.messages.add_message("s", a_message("a", 1000, '"one"'), LIMIT)
    again = await adapters.messages.add_message("s", a_message("a", 2000, '"another"'), LIMIT)
    assert again == (first, False)
    at_once = await asyncio.gather(*(adapters.messages.add_message("s", a_message("b", 3000), LIMIT) for _ in range(8)))
    assert sum(is_new for _, is_new in at_once) == 1
    assert len({message for message, _ in at_once}) == 1
    assert await places(adapters, 0) == [("a", 1000), ("b", 3000)]
    assert await adapters.live.set_state("s", 1, "ended")
    assert await adapters.messages.add_message("s", a_message("a"), LIMIT) == (first, False), "its outcome stays known"


async def test_messages_are_read_by_time_and_page(adapters: StoreAdapters) -> None:
    await begin(adapters)
    for name, place in (("d", 3000), ("a", 1000), ("b", 2000), ("c", 2000), ("e", 4000)):
        await adapters.messages.add_message("s", a_message(name, place), LIMIT)
    assert [name for name, _ in await places(adapters, 0)] == ["a", "b", "c", "d", "e"], "by place, then as they came"
    assert [name for name, _ in await places(adapters, 2000, 3000)] == ["b", "c"]
    assert await places(adapters, 4001) == []
    assert await places(adapters, 0, None, limit=0) == []
    seen: list[str] = []
    after: MessagePlace | None = None
    while page := await adapters.messages.read_messages("s", 1001, 4000, after, 2):
        assert len(page) <= 2
        seen += [message.id for message in page]
        after = page[-1].place
    assert seen == ["b", "c", "d"]
    assert [name for name, _ in await places(adapters, 3000, None, MessagePlace(1000, 2))] == ["d", "e"], (
        "the later one"
    )


async def test_who_may_not_add_a_message(adapters: StoreAdapters) -> None:
    with pytest.raises(NotFound):
        await adapters.messages.add_message("s", a_message("a"), LIMIT)
    await begin_stream(adapters)
    with pytest.raises(NotLive):
        await adapters.messages.add_message("s", a_message("a"), LIMIT)
    assert await adapters.live.set_state("s", 1, "interrupted")
    with pytest.raises(NotLive):
        await adapters.messages.add_message("s", a_message("a"), LIMIT)
    assert await adapters.live.set_state("s", 1, "ended")
    with pytest.raises(Gone):
        await adapters.messages.add_message("s", a_message("a"), LIMIT)
    assert not await adapters.messages.read_messages("s", 0)


async def test_the_messages_of_a_stream_are_limited_in_number_and_size(adapters: StoreAdapters) -> None:
    await begin(adapters)
    adding = (adapters.messages.add_message("s", a_message(f"m{number}", 1000), 3) for number in range(6))
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(isinstance(outcome, TooManyMessages) for outcome in outcomes) == 3
    assert len(await places(adapters, 0)) == 3
    half = json.dumps("x" * (MAX_MESSAGE_DATA_IN_ALL // 2))
    await adapters.messages.add_message("s", a_message("half", 1, half), LIMIT)
    with pytest.raises(TooManyMessages):
        await adapters.messages.add_message("s", a_message("rest", 1, half), LIMIT)
    _, is_new = await adapters.messages.add_message("s", a_message("small", 1), LIMIT)
    assert is_new


async def test_messages_leave_with_their_stream(adapters: StoreAdapters) -> None:
    await begin(adapters)
    await begin_stream(adapters, "other")
    await reach(adapters, 1000, Epoch(0, b"i", TIMESCALE, 0, 0, START), stream="other")
    await adapters.messages.add_message("s", a_message("a"), LIMIT)
    await adapters.messages.add_message("other", a_message("a", 0), LIMIT)
    assert await adapters.live.delete_stream("s")
    assert not await adapters.messages.read_messages("s", 0)
    assert len(await adapters.messages.read_messages("other", 0)) == 1
    with pytest.raises(NotFound):
        await adapters.messages.add_message("s", a_message("b"), LIMIT)


async def test_a_message_moves_no_position(adapters: StoreAdapters) -> None:
    """A writer goes on as if there were none."""
    await begin(adapters, 60_000, "live")
    before = await adapters.live.get_stream("s")
    await adapters.messages.add_message("s", a_message("a"), LIMIT)
    after = await adapters.live.get_stream("s")
    assert before == after
    await reach(adapters, 62_000, last=1)
    found = await adapters.live.get_stream("s")
    assert found is not None
    assert isinstance(found.position, LivePosition)
    assert found.position.file_end == 62_000
