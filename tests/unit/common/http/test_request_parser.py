"""services.common.http.request_parser: bytes in, cut anywhere; heads, bodies and errors out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import GridcastError
from services.common.http.request_parser import (
    END_OF_MESSAGE,
    MAX_FIELD_BYTES,
    MAX_REQUESTS_PER_READ,
    MAX_TARGET,
    EndOfMessage,
    Event,
    RequestHead,
    RequestParser,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y: z\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = (
    b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"
)


def told(*pieces: bytes) -> list[object]:
    """What comes out: (method, target) of heads, bodies joined, ends, statuses of errors."""
    parser = RequestParser()
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    out: list[object] = []
    for event in events:
        if isinstance(event, RequestHead):
            out.append((event.method, event.target))
        elif isinstance(event, bytes) and out and isinstance(out[-1], bytes):
            out[-1] += event
        elif isinstance(event, GridcastError):
            out.append(event.status)
        else:
            out.append(event)
    return out


def head(request: bytes) -> RequestHead:
    (event, *_) = RequestParser().feed(request)
    assert isinstance(event, RequestHead)
    return event


def test_a_head() -> None:
    parsed = head(GET)
    assert parsed.headers == [(b"host", b"x"), (b"x-y", b"z")]
    assert (parsed.version, parsed.content_length, parsed.keep_alive, parsed.upgrade) == ("1.1", 0, True, False)
    assert not head(GET.replace(b"X-Y: z", b"Connection: close")).keep_alive
    assert not head(GET.replace(b"1.1", b"1.0")).keep_alive
    assert head(PUT).content_length == 10
    assert head(CHUNKED).content_length is None


@given(st.lists(st.integers(1, 60), max_size=12))
def test_pieces_say_what_the_whole_says(sizes: list[int]) -> None:
    whole = GET + PUT + CHUNKED + GET + PUT
    pieces, at = [], 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    wanted = [
        ("GET", b"/a?b=c"),
        *(("PUT", b"/a"), b"0123456789", END_OF_MESSAGE),
        *(("PUT", b"/a"), b"abcde", END_OF_MESSAGE),
        ("GET", b"/a?b=c"),
        *(("PUT", b"/a"), b"0123456789", END_OF_MESSAGE),
    ]
    assert told(*pieces, whole[at:]) == wanted


def test_a_known_length_is_not_copied() -> None:
    parser = RequestParser()
    parser.feed(PUT[:-6])
    piece = b"45678"
    (event,) = parser.feed(piece)
    assert event is piece
    last, end, behind = parser.feed(b"9" + GET)
    assert (last, type(end)) == (b"9", EndOfMessage)
    assert isinstance(behind, RequestHead)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (GET.replace(b"Host: x\r\n", b""), 400),
        (GET.replace(b"/a?b=c", b"/" + b"a" * MAX_TARGET), 414),
        (GET.replace(b"z", b"z" * MAX_FIELD_BYTES), 431),
        (GET.replace(b"X-Y", b"Expect"), 417),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (PUT.replace(b"Host: x", b"Host: x\r\nConnection: upgrade\r\nUpgrade: websocket"), 400),
    ],
)
def test_an_error_is_the_last_event(request_: bytes, status: int) -> None:
    assert told(GET + request_ + GET) == [("GET", b"/a?b=c"), status]


def test_what_comes_to_nothing_has_a_limit() -> None:
    parser = RequestParser()
    piece = b"a" * 4096
    parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\n")
    for _ in range(11):
        events = parser.feed(piece)
    assert [event.status for event in events if isinstance(event, GridcastError)] == [431]


def test_one_read_brings_a_limited_number_of_requests() -> None:
    parser = RequestParser()
    assert len(parser.feed(GET * MAX_REQUESTS_PER_READ)) == MAX_REQUESTS_PER_READ
    events = parser.feed(GET * (MAX_REQUESTS_PER_READ + 2))
    assert len(events) == MAX_REQUESTS_PER_READ + 1
    assert isinstance(events[-1], GridcastError)
    assert events[-1].status == 429


@pytest.mark.parametrize(
    ("upgrade", "websocket"),
    [
        (b"Connection: Upgrade\r\nUpgrade: WebSocket", True),
        (b"Connection: keep-alive, upgrade\r\nUpgrade: websocket", True),
        (b"Connection: upgrade\r\nUpgrade: h2c", False),
    ],
)
def test_an_upgrade_leaves_what_is_behind_it(upgrade: bytes, *, websocket: bool) -> None:
    parser = RequestParser()
    (event,) = parser.feed(GET.replace(b"X-Y: z", upgrade) + b"behind")
    assert isinstance(event, RequestHead)
    assert event.upgrade
    assert event.asks_for_websocket() is websocket
    assert parser.trailing_data == b"behind"


def test_in_head() -> None:
    parser = RequestParser()
    states = [parser.in_head]
    for piece in (GET[:5], GET[5:]):
        parser.feed(piece)
        states.append(parser.in_head)
    assert states == [False, True, False]
