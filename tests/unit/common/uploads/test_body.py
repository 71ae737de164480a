"""services.common.uploads.body: an abort is noticed at any moment, and an empty body however it is framed."""

import asyncio

import pytest

from services.common.asgi import Message
from services.common.errors import Conflict
from services.common.uploads.body import UploadBody

pytestmark = pytest.mark.anyio


async def receive_nothing() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("nothing comes")


async def test_abort_in_the_loop_iteration_in_which_a_wait_ends() -> None:
    """The timer has fired, and the reader has not been woken yet."""
    body = UploadBody(receive_nothing, 0, 0.05)
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    while not (waiting := body._receive_timeout) or not waiting.expired():
        await asyncio.sleep(0)
        if waiting and waiting.expired():
            break
    body.abort(Conflict("cut"))
    with pytest.raises(Conflict):
        await reading


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b""], [b"a"], [b"", b"a"], [b"a", b"bc"], [b"a", b""]], ids=str)
async def test_looking_for_the_first_bytes_takes_none(pieces: list[bytes]) -> None:
    waiting = [*pieces, b""]

    async def receive() -> Message:
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    body = UploadBody(receive, 0, 60)
    for _ in range(2):
        assert await body.is_empty() is (b"".join(pieces) == b"")
        assert body.at_eof is (b"".join(pieces) == b"")
    assert [piece async for piece in body] == [piece for piece in pieces if piece]
    assert body.at_eof


async def test_the_only_message_has_bytes() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"all", "more_body": False}]

    async def receive() -> Message:
        return messages.pop()

    body = UploadBody(receive, 0, 60)
    assert not await body.is_empty()
    assert await body.read() == b"all"
    assert await body.read() is None
    assert await body.is_empty()
