"""Where a request ends: raw bytes to the gateway, each case with a well-formed twin that must pass.

A case is rejected and nothing of it reaches the service; a second request after it must not be answered: after a request that two
parsers may read differently the connection is closed. The twin is answered, and so is the request after it.
"""

from dataclasses import dataclass

import pytest

from tests.support.processes import ServiceProcess
from tests.support.scripted_upstream import ScriptedUpstream, parse_statuses, send_raw

PIPELINED_REQUEST = b"GET /file?behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GET_LINE = b"GET /file?case HTTP/1.1\r\n"
POST_LINE = b"POST /file/upload?case HTTP/1.1\r\n"
HOST_HEADER = b"Host: a\r\n"
CHUNKED_HEAD = POST_LINE + HOST_HEADER + b"Transfer-Encoding: chunked\r\n"
LENGTH_THREE = POST_LINE + HOST_HEADER + b"Content-Length: 3\r\n"
ONE_CHUNK = b"\r\n3\r\nabc\r\n0\r\n\r\n"


@dataclass(frozen=True)
class FramingCase:
    """Bytes that are rejected with `status`, and the twin that is served and gives the service `body`."""

    name: str
    raw: bytes
    valid_raw: bytes
    status: int = 400
    body: bytes = b""


FRAMING_CASES = [
    # Two statements about the length.
    FramingCase(
        "length and chunked",
        LENGTH_THREE + b"Transfer-Encoding: chunked\r\n" + ONE_CHUNK,
        CHUNKED_HEAD + ONE_CHUNK,
        body=b"abc",
    ),
    FramingCase(
        "chunked and length",
        CHUNKED_HEAD + b"Content-Length: 3\r\n" + ONE_CHUNK,
        LENGTH_THREE + b"\r\nabc",
        body=b"abc",
    ),
    FramingCase("two lengths", LENGTH_THREE + b"Content-Length: 4\r\n\r\nabcd", LENGTH_THREE + b"\r\nabc", body=b"abc"),
    FramingCase(
        "one length twice", LENGTH_THREE + b"Content-Length: 3\r\n\r\nabc", LENGTH_THREE + b"\r\nabc", body=b"abc"
    ),
    FramingCase(
        "a list of lengths",
        POST_LINE + HOST_HEADER + b"Content-Length: 3, 3\r\n\r\nabc",
        LENGTH_THREE + b"\r\nabc",
        body=b"abc",
    ),
    FramingCase(
        "chunked twice",
        CHUNKED_HEAD + b"Transfer-Encoding: chunked\r\n" + ONE_CHUNK,
        CHUNKED_HEAD + ONE_CHUNK,
        body=b"abc",
    ),
    FramingCase(
        "chunked on HTTP/1.0", CHUNKED_HEAD.replace(b"1.1", b"1.0") + ONE_CHUNK, CHUNKED_HEAD + ONE_CHUNK, body=b"abc"
    ),
    # A length that is no number.
    *(
        FramingCase(
            f"length {value!r}",
            POST_LINE + HOST_HEADER + b"Content-Length: " + value + b"\r\n\r\nabc",
            LENGTH_THREE + b"\r\nabc",
            body=b"abc",
        )
        for value in (b"+3", b"-3", b"0x3", b"3.0", b"3 3", b"", b"3;", b"\xc2\xb3", b"99999999999999999999999")
    ),
    # A coding that is not chunked.
    *(
        FramingCase(
            f"coding {value!r}",
            POST_LINE + HOST_HEADER + b"Transfer-Encoding: " + value + b"\r\n" + ONE_CHUNK,
            POST_LINE + HOST_HEADER + b"Transfer-Encoding: CHUNKED\r\n" + ONE_CHUNK,
            body=b"abc",
        )
        for value in (b"xchunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"\x0bchunked", b"chunked;q=1", b"")
    ),
    FramingCase(
        "space before the colon",
        POST_LINE + HOST_HEADER + b"Transfer-Encoding : chunked\r\n" + ONE_CHUNK,
        CHUNKED_HEAD + ONE_CHUNK,
        body=b"abc",
    ),
    # Chunks.
    *(
        FramingCase(
            f"chunk {value!r}",
            CHUNKED_HEAD + b"\r\n" + value,
            CHUNKED_HEAD + b"\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
            body=b"abc",
        )
        for value in (
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"-1\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3;a\nb\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabcX\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffffff\r\nabc",
        )
    ),
    # Line endings and folding.
    FramingCase(
        "bare LF after the request line",
        b"GET /file?case HTTP/1.1\n" + HOST_HEADER + b"\r\n",
        GET_LINE + HOST_HEADER + b"\r\n",
    ),
    FramingCase("bare LF after a field", GET_LINE + b"Host: a\nX: 1\r\n\r\n", GET_LINE + HOST_HEADER + b"X: 1\r\n\r\n"),
    FramingCase(
        "bare CR in a field", GET_LINE + HOST_HEADER + b"X: a\rb\r\n\r\n", GET_LINE + HOST_HEADER + b"X: a b\r\n\r\n"
    ),
    FramingCase(
        "folded field", GET_LINE + HOST_HEADER + b"X: 1\r\n 2\r\n\r\n", GET_LINE + HOST_HEADER + b"X: 1 2\r\n\r\n"
    ),
    FramingCase(
        "folded first field",
        GET_LINE + b" X: 1\r\n" + HOST_HEADER + b"\r\n",
        GET_LINE + b"X: 1\r\n" + HOST_HEADER + b"\r\n",
    ),
    # Characters in fields.
    FramingCase(
        "NUL in a field", GET_LINE + HOST_HEADER + b"X: a\x00b\r\n\r\n", GET_LINE + HOST_HEADER + b"X: a\tb\r\n\r\n"
    ),
    FramingCase(
        "control in a field",
        GET_LINE + HOST_HEADER + b"X: a\x01b\r\n\r\n",
        GET_LINE + HOST_HEADER + b"X: a\xc3\xa9b\r\n\r\n",
    ),
    FramingCase(
        "delete in a field",
        GET_LINE + HOST_HEADER + b"X: a\x7fb\r\n\r\n",
        GET_LINE + HOST_HEADER + b"X: \xe9\xff\r\n\r\n",
    ),
    FramingCase(
        "space in a name",
        GET_LINE + b"Ho st: a\r\n" + HOST_HEADER + b"\r\n",
        GET_LINE + b"Ho-st: a\r\n" + HOST_HEADER + b"\r\n",
    ),
    FramingCase("no name", GET_LINE + HOST_HEADER + b": a\r\n\r\n", GET_LINE + HOST_HEADER + b"A:\r\n\r\n"),
    FramingCase("no colon", GET_LINE + HOST_HEADER + b"A\r\n\r\n", GET_LINE + HOST_HEADER + b"A: \r\n\r\n"),
    # The request line.
    *(
        FramingCase(
            f"absolute form {value!r}",
            b"GET " + value + b" HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
            b"GET http://a-1.example:8000/file?case HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        )
        for value in (b"ftp://a/file", b"http://u@a/file", b"http:///file", b"http://a b/file", b"http://a\\@b/file")
    ),
    FramingCase("absolute form without Host", b"GET http://a/file HTTP/1.1\r\n\r\n", GET_LINE + b"Host: b\r\n\r\n"),
    FramingCase(
        "absolute form with two Hosts",
        b"GET http://a/file HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET https://a/file HTTP/1.1\r\nHost: b\r\n\r\n",
    ),
    FramingCase("RTSP", b"GET /file RTSP/1.0\r\n\r\n", b"GET /file HTTP/1.1\r\nHost: a\r\nX: RTSP/1.0\r\n\r\n"),
    FramingCase("ICE", b"SOURCE /file ICE/1.0\r\n\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase(
        "authority form", b"GET @evil/file HTTP/1.1\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"
    ),
    FramingCase("CONNECT", b"CONNECT a:80 HTTP/1.1\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase(
        "CONNECT with a path", b"CONNECT /file HTTP/1.1\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"
    ),
    FramingCase(
        "asterisk",
        b"OPTIONS * HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        b"OPTIONS /file/tus HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
    ),
    FramingCase(
        "fragment",
        b"GET /file?case#x HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        b"GET /file?case%23x HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
    ),
    FramingCase(
        "raw non-ASCII",
        b"GET /file?\xc3\xa9 HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        b"GET /file?%C3%A9 HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
    ),
    FramingCase(
        "space in the target",
        b"GET /file?a b HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        b"GET /file?a+b HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
    ),
    FramingCase("HTTP/2.0", b"GET /file HTTP/2.0\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase(
        "HTTP/0.9 by name", b"GET /file HTTP/0.9\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"
    ),
    FramingCase("HTTP/1.2", b"GET /file HTTP/1.2\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase(
        "lower-case method", b"get /file HTTP/1.1\r\n" + HOST_HEADER + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"
    ),
    # Host.
    FramingCase("no Host", GET_LINE + b"\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase("two Hosts", GET_LINE + HOST_HEADER + b"Host: b\r\n\r\n", GET_LINE + HOST_HEADER + b"\r\n"),
    FramingCase("one Host twice", GET_LINE + HOST_HEADER + HOST_HEADER + b"\r\n", GET_LINE + b"hOST: a\r\n\r\n"),
    *(
        FramingCase(
            f"Host {value!r}", GET_LINE + b"Host: " + value + b"\r\n\r\n", GET_LINE + b"Host: a-1.example:8000\r\n\r\n"
        )
        for value in (b"a/b", b"a?b", b"a#b", b"a@b", b"a b", b"", b"a:b", b"a:999999", b"[::1", b"a,b", b"\xc3\xa9")
    ),
    FramingCase("Host that is no address", GET_LINE + b"Host: [g]\r\n\r\n", GET_LINE + b"Host: [::1]:8000\r\n\r\n"),
    # Paths that two parsers read differently.
    *(
        FramingCase(
            f"path {value!r}",
            b"GET " + value + b" HTTP/1.1\r\n" + HOST_HEADER + b"Connection: close\r\n\r\n",
            twin + HOST_HEADER + b"\r\n",
        )
        for value, twin in (
            (b"/file/..%2fsockets", b"GET /file/info HTTP/1.1\r\n"),
            (b"/file/%2e%2e/sockets", b"GET /file/info HTTP/1.1\r\n"),
            (b"/file/../sockets", b"GET /sockets HTTP/1.1\r\n"),
            (b"/./file", b"GET /file HTTP/1.1\r\n"),
            (b"//evil/file", b"GET /file HTTP/1.1\r\n"),
            (b"/file//info", b"GET /file/info HTTP/1.1\r\n"),
            (b"/file%5cinfo", b"GET /file/info HTTP/1.1\r\n"),
            (b"/file\\info", b"GET /file/info HTTP/1.1\r\n"),
            (b"/file%00", b"GET /file HTTP/1.1\r\n"),
            (b"/file%0d%0a", b"GET /file HTTP/1.1\r\n"),
            (b"/sockets/%252e%252e", b"GET /sockets/ABC HTTP/1.1\r\n"),
            (b"/sockets;x=1", b"GET /sockets?x=1 HTTP/1.1\r\n"),
        )
    ),
    # Limits.
    FramingCase(
        "long target",
        b"GET /file?" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        b"GET /file?" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        414,
    ),
    FramingCase(
        "very long target",
        b"GET /file?" + b"a" * 500_000,
        b"GET /file?" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST_HEADER + b"\r\n",
        414,
    ),
    FramingCase(
        "large field",
        GET_LINE + HOST_HEADER + b"X: " + b"a" * 33_000 + b"\r\n\r\n",
        GET_LINE + HOST_HEADER + b"X: " + b"a" * 8000 + b"\r\n\r\n",
        431,
    ),
    FramingCase(
        "field without end",
        GET_LINE + HOST_HEADER + b"X: " + b"a" * 500_000,
        GET_LINE + HOST_HEADER + b"X: " + b"a" * 8000 + b"\r\n\r\n",
        431,
    ),
    FramingCase(
        "large fields",
        GET_LINE + HOST_HEADER + b"X: aaaaaaa\r\n" * 10 + b"Y: " + b"a" * 32_700 + b"\r\n\r\n",
        GET_LINE + HOST_HEADER + b"X: a\r\n\r\n",
        431,
    ),
    FramingCase(
        "many fields",
        GET_LINE + HOST_HEADER + b"X: a\r\n" * 100 + b"\r\n",
        GET_LINE + HOST_HEADER + b"X: a\r\n" * 99 + b"\r\n",
        431,
    ),
    FramingCase(
        "trailers without end",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\n" + b"X: aaaaaaa\r\n" * 4000 + b"\r\n",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\nX: a\r\n\r\n",
        431,
        b"abc",
    ),
    FramingCase(
        "one trailer without end",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 500_000,
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 8000 + b"\r\n\r\n",
        431,
        b"abc",
    ),
    FramingCase(
        "a chunk's extension without end",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n3;" + b"a" * 500_000,
        CHUNKED_HEAD + b"\r\n3;" + b"a" * 8000 + b"\r\nabc\r\n0\r\n\r\n",
        431,
        b"abc",
    ),
    FramingCase(
        "length among the trailers",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
        CHUNKED_HEAD + b"\r\n3\r\nabc\r\n0\r\nX-Length: 3\r\n\r\n",
        body=b"abc",
    ),
    # What ends the use of a connection.
    FramingCase(
        "upgrade that swallows a body",
        LENGTH_THREE + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\nabc",
        LENGTH_THREE + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\nabc",
        body=b"abc",
    ),
    FramingCase(
        "ignored upgrade and a malformed chunk",
        CHUNKED_HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        CHUNKED_HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + ONE_CHUNK,
        body=b"abc",
    ),
    FramingCase(
        "WebSocket by POST",
        b"POST /ws HTTP/1.1\r\n" + HOST_HEADER + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        GET_LINE + HOST_HEADER + b"\r\n",
    ),
    FramingCase(
        "other expectation",
        LENGTH_THREE + b"Expect: 200-ok\r\n\r\nabc",
        LENGTH_THREE + b"Expect: 100-Continue\r\n\r\nabc",
        417,
        b"abc",
    ),
]


def test_there_are_enough_cases() -> None:
    assert len(FRAMING_CASES) >= 60
    assert len({case.name for case in FRAMING_CASES}) == len(FRAMING_CASES)


@pytest.mark.parametrize("case", FRAMING_CASES, ids=lambda case: case.name)
def test_ambiguous_request_is_rejected_and_closes_the_connection(
    gateway: ServiceProcess, upstream: ScriptedUpstream, case: FramingCase
) -> None:
    upstream.reset()
    received = send_raw(gateway.port, case.raw + PIPELINED_REQUEST)
    assert [status for status in parse_statuses(received) if status != 100] == [case.status]
    assert b"application/problem+json" in received
    # A body may be rejected after its head was forwarded; then the service must not have parsed a complete request.
    assert not [seen for seen in upstream.requests if seen.complete or "behind" in seen.target]


@pytest.mark.parametrize("case", FRAMING_CASES, ids=lambda case: case.name)
def test_unambiguous_twin_and_the_next_request_are_served(
    gateway: ServiceProcess, upstream: ScriptedUpstream, case: FramingCase
) -> None:
    upstream.reset()
    received = send_raw(gateway.port, case.valid_raw + PIPELINED_REQUEST)
    assert parse_statuses(received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")) == [200, 200]
    first, second = upstream.requests
    assert (first.body, first.complete) == (case.body, True)
    assert second.target == "/file?behind"


def test_trailers_do_not_become_headers(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.reset()
    trailers = b"X-Late: 1\r\nAuthorization: late\r\nX-Request-ID: late\r\nHost: late\r\n"
    send_raw(gateway.port, CHUNKED_HEAD + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
    (seen,) = upstream.requests
    assert not {name.lower() for name, _ in seen.headers} & {"x-late", "authorization"}
    assert seen.get_all("host") == ["a"]
    assert seen.get_all("x-request-id") != ["late"]


def test_unsupported_upgrade_is_ignored(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """RFC 9110, 7.8: the request is answered as one without the offer, and so is the next one."""
    upstream.reset()
    offer = b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    received = send_raw(gateway.port, GET_LINE + HOST_HEADER + offer + b"\r\n" + PIPELINED_REQUEST)
    assert parse_statuses(received) == [200, 200]
    assert [seen.target for seen in upstream.requests] == ["/file?case", "/file?behind"]
    assert not [name for name, _ in upstream.requests[0].headers if name.lower() in {"upgrade", "http2-settings"}]


def test_the_authority_of_an_absolute_form_is_the_host(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.reset()
    raw = b"GET http://b:81/file?case HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parse_statuses(send_raw(gateway.port, raw + PIPELINED_REQUEST)) == [200, 200]
    seen = upstream.requests[0]
    assert (seen.target, seen.get_all("host"), seen.get_all("x-forwarded-host")) == ("/file?case", ["b:81"], ["b:81"])


def test_white_space_around_values_is_dropped(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.reset()
    raw = POST_LINE + b"Host: a \t\r\nX:\t b \t\r\nTransfer-Encoding: chunked \r\n" + ONE_CHUNK
    assert parse_statuses(send_raw(gateway.port, raw + PIPELINED_REQUEST)) == [200, 200]
    seen = upstream.requests[0]
    assert (seen.get_all("host"), seen.get_all("x"), seen.body) == (["a"], ["b"], b"abc")


def test_pipelined_requests_are_answered_in_turn(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.reset()
    raw = b"".join(b"GET /file?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20))
    assert parse_statuses(send_raw(gateway.port, raw + PIPELINED_REQUEST)) == [200] * 21
    assert [seen.target for seen in upstream.requests][:20] == [f"/file?{number}" for number in range(20)]


def test_pipelined_requests_are_limited_per_connection(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """The others are not read: a few connections would fill the memory."""
    upstream.reset()
    raw = b"".join(b"GET /file?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(200))
    *answered, refused = parse_statuses(send_raw(gateway.port, raw))
    assert answered == [200] * len(answered)
    assert 20 < len(answered) < 60
    assert refused == 429
    assert len(upstream.requests) == len(answered)


def test_error_for_a_pipelined_request_is_sent_in_order(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.reset()
    received = send_raw(
        gateway.port,
        GET_LINE + HOST_HEADER + b"\r\n" + GET_LINE + HOST_HEADER + b"Bad Name: 1\r\n\r\n" + PIPELINED_REQUEST,
    )
    assert parse_statuses(received) == [200, 400]
    assert len(upstream.requests) == 1
