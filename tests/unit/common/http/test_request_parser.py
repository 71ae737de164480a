"""services.common.http.request_parser: bytes in, cut anywhere; heads, bodies and errors out."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import GridcastError
from services.common.http.request_head import (
    FORWARDED_FIELDS,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_TARGET,
    ForwardedHeadValidator,
    RequestHead,
)
from services.common.http.request_parser import (
    END_OF_MESSAGE,
    MAX_REQUESTS_PER_READ,
    EndOfMessage,
    Event,
    RequestParser,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y: z\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = (
    b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n"
)


def told(*pieces: bytes) -> list[object]:
    """What comes out: (method, target) of heads, bodies joined, ends, statuses of errors."""
    parser = RequestParser(offers_websocket=True)
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
    assert (parsed.version, parsed.content_length, parsed.keep_alive, parsed.websocket) == ("1.1", 0, True, False)
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
        (GET.replace(b"X-Y: z", b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1"), 400),
        (GET.replace(b"HTTP/1.1", b"RTSP/1.0"), 400),
        (GET.replace(b"HTTP/1.1", b"RTSP/1.1"), 400),
        (b"GET http://x RTSP/1.0\r\nHost: x\r\n\r\n", 400),
        (b"POST /a RTSP/2.0\r\nHost: x\r\nContent-Length: 1\r\n\r\na", 400),
        (b"DESCRIBE /a RTSP/1.0\r\n\r\n", 400),
        (b"SOURCE /a ICE/1.0\r\n\r\n", 400),
    ],
)
def test_an_error_is_the_last_event(request_: bytes, status: int) -> None:
    assert told(GET + request_ + GET) == [("GET", b"/a?b=c"), status]


@pytest.mark.parametrize("target", [b"/", b"/a?b=c&d", b"/%7e~!$&'()*+,;=:@|{}\"<>^`\\"])
def test_a_target(target: bytes) -> None:
    assert told(GET.replace(b"/a?b=c", target)) == [("GET", target)]


@pytest.mark.parametrize("target", [b"", b"*", b"a", b"/a#b", b"/a b", b"/\xc3\xa9", b"/a\n", b"/\x7f", b"?a"])
def test_what_is_no_target(target: bytes) -> None:
    assert told(GET.replace(b"/a?b=c", target)) == [400]


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
    "upgrade",
    [
        b"Connection: Upgrade\r\nUpgrade: WebSocket",
        b"Connection: keep-alive, upgrade\r\nUpgrade: websocket",
        b"Connection: upgrade\r\nConnection: keep-alive\r\nUpgrade: websocket ",
    ],
)
def test_a_websocket_handshake_leaves_what_is_behind_it(upgrade: bytes) -> None:
    parser = RequestParser(offers_websocket=True)
    (event,) = parser.feed(GET.replace(b"X-Y: z", upgrade) + b"behind")
    assert isinstance(event, RequestHead)
    assert event.websocket
    assert parser.trailing_data == b"behind"


IGNORED_UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA",
    b"Connection: upgrade\r\nUpgrade: TLS/1.2",
    b"Connection: upgrade\r\nUpgrade: h2c, websocket",
    b"Upgrade: websocket",
]


@pytest.mark.parametrize("upgrade", IGNORED_UPGRADES)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_upgrade_that_is_not_offered_is_ignored(upgrade: bytes, size: int) -> None:
    """RFC 9110, 7.8: with a body of each kind, and cut anywhere."""
    offer = b"Host: x\r\n" + upgrade
    whole = b"".join(request.replace(b"Host: x", offer) for request in (GET, PUT, CHUNKED, CHUNKED, PUT, GET)) + GET
    body = [("PUT", b"/a"), b"0123456789", END_OF_MESSAGE]
    chunked = [("PUT", b"/a"), b"abcde", END_OF_MESSAGE]
    get = [("GET", b"/a?b=c")]
    wanted = [*get, *body, *chunked, *chunked, *body, *get, *get]
    assert told(*(whole[at : at + size] for at in range(0, len(whole), size))) == wanted
    assert head(GET.replace(b"Host: x", offer)).keep_alive


def test_an_upgrade_is_ignored_where_no_websocket_is_offered_and_in_an_older_request() -> None:
    handshake = GET.replace(b"X-Y: z", b"Connection: upgrade\r\nUpgrade: websocket")
    for request, offered in ((handshake, False), (handshake.replace(b"HTTP/1.1", b"HTTP/1.0"), True)):
        first, second = RequestParser(offers_websocket=offered).feed(request + GET)
        assert isinstance(first, RequestHead)
        assert not first.websocket
        assert isinstance(second, RequestHead)


def test_what_follows_an_ignored_upgrade_is_judged_as_ever() -> None:
    offer = b"Host: x\r\nConnection: upgrade\r\nUpgrade: h2c"
    for request, status in (
        (CHUNKED.replace(b"3\r\nabc", b"-3\r\nabc").replace(b"Host: x", offer), 400),
        (GET.replace(b"Host: x", offer) + GET.replace(b"Host: x\r\n", b""), 400),
        (CHUNKED.replace(b"T: u", b"T: " + b"u" * MAX_FIELD_BYTES).replace(b"Host: x", offer), 431),
    ):
        *_, last = told(request + GET)
        assert last == status


@pytest.mark.parametrize(
    ("target", "host", "origin_form"),
    [
        (b"http://media.example:8000/a?b=c", b"media.example:8000", b"/a?b=c"),
        (b"HTTP://[::1]/a", b"[::1]", b"/a"),
        (b"https://a", b"a", b"/"),
        (b"http://a?b=c", b"a", b"/?b=c"),
        (b"http://a//b", b"a", b"//b"),
    ],
)
def test_the_authority_of_an_absolute_form_replaces_the_host(target: bytes, host: bytes, origin_form: bytes) -> None:
    """RFC 9112, 3.2.2."""
    request = GET.replace(b"/a?b=c", target)
    for sent in (request, request.replace(b"1.1", b"1.0").replace(b"Host: x\r\n", b"")):
        parsed = head(sent)
        assert parsed.target == origin_form
        assert sorted(parsed.headers) == [(b"host", host), (b"x-y", b"z")]


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"ftp://a/",
            b"ftp:/a",
            b"http:/a",
            b"http:///a",
            b"http://",
            b"http://u@a/",
            b"http://u:p@a/",
            b"http://a:b/",
        ),
        *(b"http://a#b", b"http://a b/", b"http://a\\b/", b"ws://a/", b"a", b"*", b"a:80", b"http://\xc3\xa9/"),
    ],
)
def test_what_is_no_absolute_form(target: bytes) -> None:
    assert told(GET.replace(b"/a?b=c", target)) == [400]


def test_an_absolute_form_needs_a_valid_host_and_is_not_the_asterisk() -> None:
    absolute = GET.replace(b"/a?b=c", b"http://a/")
    assert told(absolute.replace(b"Host: x", b"Host: x y")) == [400]
    assert told(absolute.replace(b"Host: x\r\n", b"")) == [400]
    assert told(absolute.replace(b"Host: x", b"Host: x\r\nHost: x")) == [400]
    assert told(GET.replace(b"GET /a?b=c", b"OPTIONS http://a")) == [400]
    assert told(GET.replace(b"GET /a?b=c", b"OPTIONS http://a/")) == [("OPTIONS", b"/")]


def test_white_space_around_values_and_bytes_above_ascii() -> None:
    """RFC 9110, 5.5: the one is not part of them, the other is opaque."""
    sent = PUT.replace(b"Host: x", b"Host:\t x \t\r\nX:\r\nY: \xe9\x85\xa0 b \r\nTransfer-Encoding: chunked\t").replace(
        b"Content-Length: 10\r\n", b""
    )
    values = dict(head(sent.replace(b"0123456789", b"0\r\n\r\n")).headers)
    assert values == {b"host": b"x", b"x": b"", b"y": b"\xe9\x85\xa0 b", b"transfer-encoding": b"chunked"}
    assert head(PUT.replace(b"10\r", b"10 \t\r")).content_length == 10
    assert head(PUT.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue ")).expect_continue


def test_a_body_may_look_like_another_protocol() -> None:
    line = b"GET /b RTSP/1.0\r\n"
    request = b"PUT /a HTTP/1.1\r\nHost: x\r\nX: GET /a RTSP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line)
    assert told(request + GET) == [("PUT", b"/a"), line, END_OF_MESSAGE, ("GET", b"/a?b=c")]
    chunked = b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n%s\r\n0\r\n\r\n" % line
    assert told(chunked + GET) == [("PUT", b"/a"), line, END_OF_MESSAGE, ("GET", b"/a?b=c")]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_a_request_line_of_rtsp_in_pieces(size: int) -> None:
    whole = GET + GET.replace(b"HTTP", b"RTSP")
    assert told(*(whole[at : at + size] for at in range(0, len(whole), size))) == [("GET", b"/a?b=c"), 400]


def test_a_server_behind_the_gateway_has_room_for_its_fields() -> None:
    own = b"Host: x\r\n" + b"".join(b"X%d: a\r\n" % n for n in range(MAX_FIELDS - 1))
    added = b"".join(b"X-Forwarded-%d: %s\r\n" % (n, b"a" * 150) for n in range(FORWARDED_FIELDS))
    request = b"GET / HTTP/1.1\r\n%s%s\r\n" % (own, added)
    assert [type(event) for event in RequestParser(ForwardedHeadValidator).feed(request)] == [RequestHead]
    assert told(request) == [431]
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n%s\r\n" % (b"a" * (MAX_FIELD_BYTES - 50), added)
    assert [type(event) for event in RequestParser(ForwardedHeadValidator).feed(large)] == [RequestHead]
    assert told(large) == [431]


def test_in_head() -> None:
    parser = RequestParser()
    states = [parser.in_head]
    for piece in (GET[:5], GET[5:]):
        parser.feed(piece)
        states.append(parser.in_head)
    assert states == [False, True, False]


class _Parser(RequestParser):
    """With room for a weak reference."""


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / a b\r\n\r\n"],
)
def test_a_refused_head_leaves_nothing_for_the_garbage_collector(head: bytes) -> None:
    """It runs after 50,000 objects: thousands of refused heads would wait for it with their bytes."""
    gc.disable()
    try:
        parser = _Parser()
        alive = weakref.ref(parser)
        assert isinstance(parser.feed(head)[-1], GridcastError)
        parser.close()
        del parser
        assert alive() is None
    finally:
        gc.enable()
