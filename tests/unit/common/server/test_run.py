"""services.common.server.run: how the server ends."""

import asyncio
import signal

import pytest
import uvicorn

from services.common.server.run import Server

pytestmark = pytest.mark.anyio


def server() -> Server:
    return Server(uvicorn.Config("unused:app", log_config=None), None)


async def turns(count: int) -> None:
    """Let the event loop run what is ready, without time for a timer."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_signal_ends_the_main_loop_at_once() -> None:
    ended = server()
    running = asyncio.create_task(ended.main_loop())
    await turns(3)
    assert not running.done()
    ended.handle_exit(signal.SIGTERM, None)
    await turns(3)
    assert running.done()


async def test_a_signal_before_the_main_loop_ends_it() -> None:
    ended = server()
    ended.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(ended.main_loop(), 5)
