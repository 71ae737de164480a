"""Our server before clients that do not take what they asked for: none is held for ever, a slow one is never cut off."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from services.common.asgi import Receive, Scope, Send
from services.common.server.connection import HTTPConnection
from services.common.server.timeouts import with_send_timeout
from tests.support.in_process_server import InProcessServer, serve_in_thread
from tests.support.raw_sockets import close_with_reset, receive_until_closed
from tests.support.waiting import eventually

SEND_TIMEOUT = 0.6


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """So many bytes as the query says, in one piece."""
    del receive
    size = int(scope["query_string"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


@pytest.fixture
def start_server() -> Iterator[Callable[[type[HTTPConnection]], InProcessServer]]:
    with contextlib.ExitStack() as running:
        yield lambda http: running.enter_context(serve_in_thread(app, http=http))


def get_request(size: int, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET /?%d HTTP/1.1" % size, b"Host: a", *fields, b"", b""])


@pytest.mark.parametrize(
    "ask",
    [
        get_request(40_000, b"Connection: close"),
        get_request(300_000, b"Connection: close"),
        get_request(300_000),
        get_request(300_000) + get_request(300_000),
        get_request(300_000) * 3 + b"nonsense\r\n\r\n",
    ],
    ids=["a little left", "much left", "on a kept connection", "with another behind it", "with a fault behind it"],
)
def test_who_takes_nothing_is_cut_off(
    start_server: Callable[[type[HTTPConnection]], InProcessServer], ask: bytes
) -> None:
    running = start_server(with_send_timeout(HTTPConnection, SEND_TIMEOUT))
    with running.connect(ask) as client:
        began = time.monotonic()
        eventually(running.is_idle, 5, "nothing is left of it")
        assert time.monotonic() - began > SEND_TIMEOUT / 2
        assert len(receive_until_closed(client)) < 40_000


def test_who_takes_a_little_now_and_then_gets_all(
    start_server: Callable[[type[HTTPConnection]], InProcessServer],
) -> None:
    running = start_server(with_send_timeout(HTTPConnection, SEND_TIMEOUT))
    with running.connect(get_request(300_000, b"Connection: close")) as client:
        taken, began = 0, time.monotonic()
        while data := client.recv(16_384):
            taken += len(data)
            time.sleep(0.1)
        assert taken > 300_000
        assert time.monotonic() - began > 2 * SEND_TIMEOUT


def test_at_the_end_of_the_process_it_is_not_waited_for(
    start_server: Callable[[type[HTTPConnection]], InProcessServer],
) -> None:
    class Leaving(HTTPConnection):
        shutdown_send_timeout = 0.5

    running = start_server(Leaving)
    with running.connect(get_request(40_000)), running.connect(get_request(40_000, b"Connection: close")):
        eventually(lambda: len(running.state.connections) == 2 and not running.state.tasks, 5)
        began = time.monotonic()
        running.stop()
        assert not running.thread.is_alive()
        assert time.monotonic() - began < 4


def test_a_request_with_another_behind_it_hears_that_its_client_has_gone(
    start_server: Callable[[type[HTTPConnection]], InProcessServer],
) -> None:
    running = start_server(HTTPConnection)
    heard = threading.Event()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, send
        async with asyncio.timeout(5):
            while (await receive())["type"] != "http.disconnect":
                pass
        heard.set()

    running.server.config.loaded_app = listen
    close_with_reset(running.connect(get_request(1) + get_request(1)))
    assert heard.wait(5)
