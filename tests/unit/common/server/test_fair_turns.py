"""services.common.server.parse_turns: one long read is parsed in turns, so that chunks of one byte do not hold the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from services.common.http.request_head import RequestHead
from services.common.http.request_parser import EndOfMessage, RequestParser
from services.common.server.connection import HTTPConnection
from services.common.server.parse_turns import BYTES_PER_TURN

pytestmark = pytest.mark.anyio

CHUNKED_HEAD = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZE = 200_000
"""Bytes of a body that is sent in chunks of one byte: 1.2 MB, several reads of 256 KiB."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@asynccontextmanager
async def run_echo() -> AsyncIterator[int]:
    """Serve an application that answers with what it was sent; yields the port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HTTPConnection(config, state, {}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_body_in_chunks_of_one_byte_arrives_and_the_next_request_is_answered() -> None:
    body = bytes(number % 251 for number in range(SIZE))
    async with run_echo() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED_HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        for sent in (body, b"second"):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await asyncio.wait_for(reader.readexactly(len(sent)), 30) == sent
            if sent is body:
                writer.write(CHUNKED_HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 6") + b"second")
        writer.close()


class RecordingTransport(asyncio.Transport):
    """A transport that notes whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def write(self, data: Any) -> None:
        del data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def test_other_callbacks_run_between_the_turns_and_nothing_is_read_meanwhile() -> None:
    received = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        del scope, send
        while (message := await receive())["type"] == "http.request":
            received += len(message["body"])

    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    config.load()
    connection = HTTPConnection(config, ServerState(), {})
    transport = RecordingTransport()
    connection.connection_made(transport)
    count = 10 * BYTES_PER_TURN // 6
    connection.data_received(CHUNKED_HEAD + b"1\r\nx\r\n" * count)
    turns = 0
    while transport.paused:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 9
    for _ in range(3):  # until the application has been woken
        await asyncio.sleep(0)
    assert received == count
    connection.connection_lost(None)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30), st.lists(st.integers(1, 60), max_size=30))
def test_pieces_of_one_read_are_one_event_wherever_reads_are_split(chunks: list[bytes], cuts: list[int]) -> None:
    data = CHUNKED_HEAD + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    parser, position, body, ended = RequestParser(), 0, b"", 0
    for cut in [*cuts, len(data)]:
        events = parser.feed(data[position : position + cut])
        position += cut
        assert sum(isinstance(event, bytes) for event in events) <= 1
        for event in events:
            assert isinstance(event, bytes | RequestHead | EndOfMessage)
            body += event if isinstance(event, bytes) else b""
            ended += isinstance(event, EndOfMessage)
    assert (body, ended) == (b"".join(chunks), 1)
