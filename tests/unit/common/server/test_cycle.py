"""services.common.server.cycle: what an application sends, and what of it goes to the connection."""

import re
from typing import Any, cast

import pytest

from services.common.http.encoding import PreencodedHeaders
from services.common.server.cycle import RequestCycle
from services.common.server.transport import CoalescingTransport

pytestmark = pytest.mark.anyio


class FakeTransport:
    """As much of a CoalescingTransport as a cycle needs."""

    write_paused = False

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def write_response(self, head: bytes, body: bytes) -> None:
        self.sent += head + body


class CycleCase:
    def __init__(self, method: str = "GET", version: str = "1.1", *, has_body: bool = False) -> None:
        self.transport = FakeTransport()
        self.finished_count = 0
        self.cycle = RequestCycle(
            {"method": method, "http_version": version},
            cast("CoalescingTransport", self.transport),
            self,
            keep_alive=version != "1.0",
            expect_continue=False,
            has_body=has_body,
        )

    def close(self) -> None:
        self.transport.closed = True

    def response_complete(self) -> None:
        self.finished_count += 1

    async def send_response(
        self, status: int, headers: list[tuple[bytes, bytes]], *pieces: bytes
    ) -> tuple[bytes, bytes]:
        """Head and body as they were sent."""
        await self.cycle.send({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            await self.cycle.send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
        head, _, body = self.transport.sent.partition(b"\r\n\r\n")
        return head, body


async def test_a_body_of_known_length() -> None:
    case = CycleCase()
    head, body = await case.send_response(200, [(b"content-length", b"5"), (b"x", b"\ta \xff")], b"ab", b"", b"cde")
    date = rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
    assert re.fullmatch(rb"HTTP/1\.1 200 OK\r\ndate: %s\r\ncontent-length: 5\r\nx: \ta \xff" % date, head)
    assert body == b"abcde"
    assert (case.finished_count, case.transport.closed) == (1, False)


async def test_a_body_of_unknown_length_is_chunked() -> None:
    case = CycleCase()
    head, body = await case.send_response(200, [], b"ab", b"", b"c" * 17, b"")
    assert b"\r\ntransfer-encoding: chunked" in head
    assert body == b"2\r\nab\r\n" + b"11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"


async def test_a_client_of_http_1_0_sees_the_end_of_the_connection() -> None:
    case = CycleCase(version="1.0")
    head, body = await case.send_response(200, [], b"ab", b"c")
    assert b"chunked" not in head
    assert b"\r\nconnection: close" in head
    assert (body, case.transport.closed) == (b"abc", True)


@pytest.mark.parametrize(("status", "headers"), [(204, []), (304, []), (304, [(b"content-length", b"5")])])
async def test_an_answer_that_has_no_body(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    case = CycleCase()
    head, body = await case.send_response(status, headers, b"")
    assert (b"chunked" in head, body, case.finished_count) == (False, b"", 1)


async def test_a_head_has_the_fields_and_no_body() -> None:
    case = CycleCase("HEAD")
    head, body = await case.send_response(200, [(b"content-length", b"5")], b"abcde")
    assert (b"content-length: 5" in head, body, case.finished_count) == (True, b"", 1)


@pytest.mark.parametrize("said", [b"close", b"Close", b"x, close"])
async def test_an_application_may_close(said: bytes) -> None:
    case = CycleCase()
    head, _ = await case.send_response(200, [(b"content-length", b"0"), (b"connection", said)], b"")
    assert head.count(b"connection:") == 1
    assert case.transport.closed


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("status", "headers"), [(200, [(b"content-length", b"5")]), (200, []), (304, []), (204, [])])
async def test_a_start_may_bring_all_of_the_body(
    method: str, version: str, status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    """And then it is sent as two messages would be."""
    one, two = CycleCase(method, version), CycleCase(method, version)
    body = b"abcde" if status == 200 and method == "GET" else b""
    await one.cycle.send({"type": "http.response.start", "status": status, "headers": headers, "body": body})
    await two.send_response(status, headers, body)
    assert one.transport.sent == two.transport.sent
    assert (
        (one.finished_count, one.transport.closed)
        == (two.finished_count, two.transport.closed)
        == (1, version == "1.0")
    )


@pytest.mark.parametrize("body", [b"abcd", b"abcdef", b""])
async def test_a_start_with_a_body_of_another_length_is_an_error(body: bytes) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")], "body": body}
    with pytest.raises(RuntimeError, match="than Content-Length"):
        await CycleCase().cycle.send(start)


async def test_fields_that_answers_share() -> None:
    case = CycleCase()
    shared = PreencodedHeaders(((b"etag", b'"a"'), (b"x", b"y")))
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")], "preencoded": shared}
    await case.cycle.send(start)
    assert case.transport.sent.endswith(b'\r\ncontent-length: 0\r\netag: "a"\r\nx: y\r\n\r\n')


def test_no_value_that_is_shared_becomes_a_field() -> None:
    with pytest.raises(RuntimeError, match="control"):
        PreencodedHeaders(((b"x", b"a\r\nb: c"),))


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"\x1b[0m"])
@pytest.mark.parametrize("part", [0, 1])
async def test_no_value_becomes_a_field(value: bytes, part: int) -> None:
    case = CycleCase()
    field = (value, b"x") if part == 0 else (b"x", value)
    with pytest.raises(RuntimeError, match="control"):
        await case.send_response(200, [field, (b"content-length", b"0")], b"")
    assert case.transport.sent == b""


@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"abcd", b"ef"), (b"abcd",), (b"",), (b"ab", b"c")])
async def test_a_wrong_length_is_an_error(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(RuntimeError, match="than Content-Length"):
        await CycleCase().send_response(200, [(b"content-length", b"5")], *pieces)


async def test_messages_out_of_turn_are_errors() -> None:
    case = CycleCase()
    with pytest.raises(RuntimeError, match="unexpected ASGI message"):
        await case.cycle.send({"type": "http.response.body", "body": b"a"})
    await case.send_response(200, [(b"content-length", b"0")], b"")
    for kind in ("http.response.start", "http.response.body"):
        with pytest.raises(RuntimeError, match="unexpected ASGI message"):
            await case.cycle.send({"type": kind, "status": 200, "headers": [], "body": b""})


async def test_one_who_has_gone_is_told_nothing() -> None:
    case = CycleCase()
    case.cycle.disconnected = True
    assert await case.send_response(200, [(b"content-length", b"5")], b"abcde") == (b"", b"")


class ReceivingCase(CycleCase):
    """A cycle whose request has a body."""

    def __init__(self) -> None:
        super().__init__("PUT", has_body=True)

    async def receive_all(self) -> list[Any]:
        """What the application hears up to the end of the connection."""
        heard: list[Any] = []
        while (message := await self.cycle.receive())["type"] != "http.disconnect":
            heard.append((message["body"], message["more_body"]))
        return heard


@pytest.mark.parametrize(
    ("pieces", "complete", "heard"),
    [
        ((b"abc",), True, [(b"abc", False)]),
        ((b"abc", b"de"), True, [(b"abcde", False)]),
        ((b"abc",), False, [(b"abc", True)]),
        ((), True, [(b"", False)]),
        ((), False, []),
    ],
)
async def test_what_has_arrived_is_handed_over_before_the_disconnect(
    pieces: tuple[bytes, ...], *, complete: bool, heard: list[Any]
) -> None:
    case = ReceivingCase()
    for piece in pieces:
        case.cycle.body.feed(piece)
    if complete:
        case.cycle.body.finish()
    case.cycle.disconnect()
    assert await case.receive_all() == heard
    assert await case.receive_all() == [], "and once"


async def test_nothing_is_handed_over_behind_a_complete_response() -> None:
    case = ReceivingCase()
    case.cycle.body.feed(b"abc")
    case.cycle.body.finish()
    await case.send_response(204, [], b"")
    assert await case.receive_all() == []
