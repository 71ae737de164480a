"""Where does a request end? Raw bytes at the gateway, each case with a well-formed twin that must pass.

A case is refused and nothing of it reaches the service; behind it stands a second request, which must not be answered: after a
request that two parsers may read differently the connection is at its end. The twin is answered, and so is what stands behind it.
"""

from dataclasses import dataclass

import pytest

from tests.support.processes import Service
from tests.support.scripted_upstream import Upstream, statuses, talk

BEHIND = b"GET /file?behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GET = b"GET /file?case HTTP/1.1\r\n"
POST = b"POST /file/upload?case HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
CHUNKED = POST + HOST + b"Transfer-Encoding: chunked\r\n"
THREE = POST + HOST + b"Content-Length: 3\r\n"
ONE_CHUNK = b"\r\n3\r\nabc\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes that are refused with `status`, and the twin that is served and gives the service `body`."""

    name: str
    raw: bytes
    twin: bytes
    status: int = 400
    body: bytes = b""


CASES = [
    # Two statements about the length.
    Case("length and chunked", THREE + b"Transfer-Encoding: chunked\r\n" + ONE_CHUNK, CHUNKED + ONE_CHUNK, body=b"abc"),
    Case("chunked and length", CHUNKED + b"Content-Length: 3\r\n" + ONE_CHUNK, THREE + b"\r\nabc", body=b"abc"),
    Case("two lengths", THREE + b"Content-Length: 4\r\n\r\nabcd", THREE + b"\r\nabc", body=b"abc"),
    Case("one length twice", THREE + b"Content-Length: 3\r\n\r\nabc", THREE + b"\r\nabc", body=b"abc"),
    Case("a list of lengths", POST + HOST + b"Content-Length: 3, 3\r\n\r\nabc", THREE + b"\r\nabc", body=b"abc"),
    Case("chunked twice", CHUNKED + b"Transfer-Encoding: chunked\r\n" + ONE_CHUNK, CHUNKED + ONE_CHUNK, body=b"abc"),
    Case("chunked on HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + ONE_CHUNK, CHUNKED + ONE_CHUNK, body=b"abc"),
    # A length that is no number.
    *(
        Case(
            f"length {value!r}",
            POST + HOST + b"Content-Length: " + value + b"\r\n\r\nabc",
            THREE + b"\r\nabc",
            body=b"abc",
        )
        for value in (b"+3", b"-3", b"0x3", b"3.0", b"3 3", b"", b"3;", b"\xc2\xb3", b"99999999999999999999999")
    ),
    # A coding that is not chunked.
    *(
        Case(
            f"coding {value!r}",
            POST + HOST + b"Transfer-Encoding: " + value + b"\r\n" + ONE_CHUNK,
            POST + HOST + b"Transfer-Encoding: CHUNKED\r\n" + ONE_CHUNK,
            body=b"abc",
        )
        for value in (b"xchunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"\x0bchunked", b"chunked;q=1", b"")
    ),
    Case(
        "space before the colon",
        POST + HOST + b"Transfer-Encoding : chunked\r\n" + ONE_CHUNK,
        CHUNKED + ONE_CHUNK,
        body=b"abc",
    ),
    # Chunks.
    *(
        Case(f"chunk {value!r}", CHUNKED + b"\r\n" + value, CHUNKED + b"\r\n3;a=b\r\nabc\r\n0\r\n\r\n", body=b"abc")
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
    # Line ends and folding.
    Case("bare LF after the request line", b"GET /file?case HTTP/1.1\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("bare LF after a field", GET + b"Host: a\nX: 1\r\n\r\n", GET + HOST + b"X: 1\r\n\r\n"),
    Case("bare CR in a field", GET + HOST + b"X: a\rb\r\n\r\n", GET + HOST + b"X: a b\r\n\r\n"),
    Case("folded field", GET + HOST + b"X: 1\r\n 2\r\n\r\n", GET + HOST + b"X: 1 2\r\n\r\n"),
    Case("folded first field", GET + b" X: 1\r\n" + HOST + b"\r\n", GET + b"X: 1\r\n" + HOST + b"\r\n"),
    # Characters in fields.
    Case("NUL in a field", GET + HOST + b"X: a\x00b\r\n\r\n", GET + HOST + b"X: a\tb\r\n\r\n"),
    Case("control in a field", GET + HOST + b"X: a\x01b\r\n\r\n", GET + HOST + b"X: a\xc3\xa9b\r\n\r\n"),
    Case(
        "field that is not UTF-8",
        GET + HOST + b"Connection: close\r\nX: \xe9\r\n\r\n",
        GET + HOST + b"X: \xc3\xa9\r\n\r\n",
    ),
    Case("space in a name", GET + b"Ho st: a\r\n" + HOST + b"\r\n", GET + b"Ho-st: a\r\n" + HOST + b"\r\n"),
    Case("no name", GET + HOST + b": a\r\n\r\n", GET + HOST + b"A:\r\n\r\n"),
    Case("no colon", GET + HOST + b"A\r\n\r\n", GET + HOST + b"A: \r\n\r\n"),
    # The request line.
    Case("absolute form", b"GET http://evil/file?case HTTP/1.1\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("authority form", b"GET @evil/file HTTP/1.1\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("CONNECT", b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("CONNECT with a path", b"CONNECT /file HTTP/1.1\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("asterisk", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS /file/tus HTTP/1.1\r\n" + HOST + b"\r\n"),
    Case(
        "fragment",
        b"GET /file?case#x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /file?case%23x HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    Case(
        "raw non-ASCII",
        b"GET /file?\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /file?%C3%A9 HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    Case(
        "space in the target",
        b"GET /file?a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /file?a+b HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    Case("HTTP/2.0", b"GET /file HTTP/2.0\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("HTTP/0.9 by name", b"GET /file HTTP/0.9\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("HTTP/1.2", b"GET /file HTTP/1.2\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET + HOST + b"\r\n"),
    Case("lower-case method", b"get /file HTTP/1.1\r\n" + HOST + b"\r\n", GET + HOST + b"\r\n"),
    # Host.
    Case("no Host", GET + b"\r\n", GET + HOST + b"\r\n"),
    Case("two Hosts", GET + HOST + b"Host: b\r\n\r\n", GET + HOST + b"\r\n"),
    Case("one Host twice", GET + HOST + HOST + b"\r\n", GET + b"hOST: a\r\n\r\n"),
    *(
        Case(f"Host {value!r}", GET + b"Host: " + value + b"\r\n\r\n", GET + b"Host: a-1.example:8000\r\n\r\n")
        for value in (b"a/b", b"a?b", b"a#b", b"a@b", b"a b", b"", b"a:b", b"a:999999", b"[::1", b"a,b", b"\xc3\xa9")
    ),
    Case("Host that is no address", GET + b"Host: [g]\r\n\r\n", GET + b"Host: [::1]:8000\r\n\r\n"),
    # Paths that two parsers read differently.
    *(
        Case(
            f"path {value!r}",
            b"GET " + value + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
            twin + HOST + b"\r\n",
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
    Case(
        "long target",
        b"GET /file?" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /file?" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        414,
    ),
    Case(
        "very long target",
        b"GET /file?" + b"a" * 500_000,
        b"GET /file?" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        414,
    ),
    Case(
        "large field",
        GET + HOST + b"X: " + b"a" * 33_000 + b"\r\n\r\n",
        GET + HOST + b"X: " + b"a" * 8000 + b"\r\n\r\n",
        431,
    ),
    Case(
        "field without end", GET + HOST + b"X: " + b"a" * 500_000, GET + HOST + b"X: " + b"a" * 8000 + b"\r\n\r\n", 431
    ),
    Case(
        "large fields",
        GET + HOST + b"X: aaaaaaa\r\n" * 10 + b"Y: " + b"a" * 32_700 + b"\r\n\r\n",
        GET + HOST + b"X: a\r\n\r\n",
        431,
    ),
    Case("many fields", GET + HOST + b"X: a\r\n" * 100 + b"\r\n", GET + HOST + b"X: a\r\n" * 99 + b"\r\n", 431),
    Case(
        "trailers without end",
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\n" + b"X: aaaaaaa\r\n" * 4000 + b"\r\n",
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: a\r\n\r\n",
        431,
        b"abc",
    ),
    Case(
        "one trailer without end",
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 500_000,
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: " + b"a" * 8000 + b"\r\n\r\n",
        431,
        b"abc",
    ),
    Case(
        "a chunk's extension without end",
        CHUNKED + b"\r\n3\r\nabc\r\n3;" + b"a" * 500_000,
        CHUNKED + b"\r\n3;" + b"a" * 8000 + b"\r\nabc\r\n0\r\n\r\n",
        431,
        b"abc",
    ),
    Case(
        "length among the trailers",
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
        CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX-Length: 3\r\n\r\n",
        body=b"abc",
    ),
    # What ends the use of a connection.
    Case(
        "upgrade that swallows a body",
        THREE + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\nabc",
        THREE + b"Upgrade: h2c\r\n\r\nabc",
        body=b"abc",
    ),
    Case(
        "WebSocket by POST",
        b"POST /ws HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        GET + HOST + b"\r\n",
    ),
    Case(
        "other expectation",
        THREE + b"Expect: 200-ok\r\n\r\nabc",
        THREE + b"Expect: 100-Continue\r\n\r\nabc",
        417,
        b"abc",
    ),
]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_with_two_readings_is_refused_and_ends_the_connection(
    gateway: Service, service: Upstream, case: Case
) -> None:
    service.reset()
    received = talk(gateway.port, case.raw + BEHIND)
    assert [status for status in statuses(received) if status != 100] == [case.status]
    assert b"application/problem+json" in received
    # A body may be refused after its head was sent on; then the service must not have taken it for a whole request.
    assert not [seen for seen in service.requests if seen.whole or "behind" in seen.target]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_its_twin_is_served_and_so_is_what_follows(gateway: Service, service: Upstream, case: Case) -> None:
    service.reset()
    received = talk(gateway.port, case.twin + BEHIND)
    assert statuses(received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")) == [200, 200]
    first, second = service.requests
    assert (first.body, first.whole) == (case.body, True)
    assert second.target == "/file?behind"


def test_a_trailer_is_no_field(gateway: Service, service: Upstream) -> None:
    service.reset()
    trailers = b"X-Late: 1\r\nAuthorization: late\r\nX-Request-ID: late\r\nHost: late\r\n"
    talk(gateway.port, CHUNKED + b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
    (seen,) = service.requests
    assert not {name.lower() for name, _ in seen.fields} & {"x-late", "authorization"}
    assert seen.all("host") == ["a"]
    assert seen.all("x-request-id") != ["late"]


def test_an_upgrade_that_is_not_offered_is_ignored_and_the_connection_closed(
    gateway: Service, service: Upstream
) -> None:
    service.reset()
    received = talk(gateway.port, GET + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + BEHIND)
    assert statuses(received) == [200]
    assert len(service.requests) == 1


def test_pipelined_requests_are_answered_in_turn(gateway: Service, service: Upstream) -> None:
    service.reset()
    raw = b"".join(b"GET /file?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20))
    assert statuses(talk(gateway.port, raw + BEHIND)) == [200] * 21
    assert [seen.target for seen in service.requests][:20] == [f"/file?{number}" for number in range(20)]


def test_so_many_requests_may_wait_on_one_connection(gateway: Service, service: Upstream) -> None:
    """The rest of them is not kept: a few connections would fill the memory."""
    service.reset()
    raw = b"".join(b"GET /file?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(200))
    *answered, refused = statuses(talk(gateway.port, raw))
    assert answered == [200] * len(answered)
    assert 20 < len(answered) < 60
    assert refused == 429
    assert len(service.requests) == len(answered)


def test_a_fault_behind_a_good_request_waits_for_its_turn(gateway: Service, service: Upstream) -> None:
    service.reset()
    received = talk(gateway.port, GET + HOST + b"\r\n" + GET + HOST + b"Bad Name: 1\r\n\r\n" + BEHIND)
    assert statuses(received) == [200, 400]
    assert len(service.requests) == 1
