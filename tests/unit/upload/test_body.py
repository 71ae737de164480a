"""services.upload.body: an abort is noticed at any moment."""

import asyncio

import pytest

from services.common.asgi import Message
from services.common.errors import Conflict
from services.upload.body import UploadBody

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
