"""gateway.upstream.response_parser: bytes in, split anywhere; status, headers and body out."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.response_parser import (
    MAX_COALESCED_BYTES,
    MAX_RESPONSE_HEADER_BYTES,
    MAX_RESPONSE_HEADERS,
    RemoteProtocolError,
    ResponseParser,
)

OK_LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED_HEAD = OK_LINE + b"Transfer-Encoding: chunked\r\n\r\n"
OK_RESPONSE = OK_LINE + b"Content-Length: 2\r\n\r\nok"


def read_body(parser: ResponseParser) -> bytes:
    body = b""
    while not parser.empty:
        body += parser.next_chunk()
    return body


def parse(
    raw: bytes, method: str = "GET", split_at: list[int] | None = None, *, closed: bool = False
) -> tuple[ResponseParser, bytes]:
    """The response in `raw`, fed in pieces that are split at `cuts`."""
    parser = ResponseParser()
    parser.start_response(method)
    edges = [0, *sorted({cut % (len(raw) + 1) for cut in split_at or ()}), len(raw)]
    body = b""
    for start, end in pairwise(edges):
        if start < end:
            parser.receive_data(raw[start:end])
            body += read_body(parser)
    if closed:
        parser.receive_eof()
    assert parser.buffered == 0
    return parser, body


COMPLETE_RESPONSES = [
    ("with a length", OK_RESPONSE, "GET", b"ok", True),
    ("with an empty body", OK_LINE + b"Content-Length: 0\r\n\r\n", "GET", b"", True),
    ("of a long body", OK_LINE + b"Content-Length: 3000\r\n\r\n" + b"abc" * 1000, "GET", b"abc" * 1000, True),
    ("in chunks", CHUNKED_HEAD + b"2;a=b\r\nok\r\n1\r\n!\r\n0\r\n\r\n", "GET", b"ok!", True),
    ("with trailers", CHUNKED_HEAD + b"2\r\nok\r\n0\r\nX: 1\r\nX: 2\r\n\r\n", "GET", b"ok", True),
    ("that ends its connection", OK_LINE + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok", False),
    ("of an older server", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok", False),
    (
        "after others",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK_RESPONSE,
        "PUT",
        b"ok",
        True,
    ),
    ("to HEAD, with a length", OK_LINE + b"Content-Length: 9000\r\n\r\n", "HEAD", b"", True),
    ("to HEAD, in chunks", CHUNKED_HEAD, "HEAD", b"", True),
    ("to HEAD, with neither", OK_LINE + b"\r\n", "HEAD", b"", False),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE", b"", True),
    ("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", b"", True),
]


@pytest.mark.parametrize(
    ("raw", "method", "expected", "clean"),
    [case[1:] for case in COMPLETE_RESPONSES],
    ids=[c[0] for c in COMPLETE_RESPONSES],
)
@given(cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_response_split_at_any_byte(raw: bytes, method: str, expected: bytes, *, clean: bool, cuts: list[int]) -> None:
    parser, body = parse(raw, method, cuts)
    assert (parser.headers_complete, parser.message_complete, parser.reusable) == (True, True, clean)
    assert body == expected
    assert all(name == name.lower() for name, _ in parser.headers)
    assert not any(name in {b"x", b"link"} for name, _ in parser.headers), "neither trailers nor interim fields"


@pytest.mark.parametrize(
    ("raw", "method", "expected", "clean"),
    [case[1:] for case in COMPLETE_RESPONSES],
    ids=[c[0] for c in COMPLETE_RESPONSES],
)
@given(cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_surplus_bytes_make_the_connection_unusable_and_not_the_response(
    raw: bytes, method: str, expected: bytes, *, clean: bool, cuts: list[int]
) -> None:
    parser, body = parse(raw + OK_RESPONSE, method, cuts)
    assert (parser.message_complete, parser.reusable, body) == (True, False, expected)
    assert (parser.status, len(parser.headers)) == (parse(raw, method)[0].status, len(parse(raw, method)[0].headers))


@pytest.mark.parametrize("first", [case for case in COMPLETE_RESPONSES if case[4]], ids=lambda case: case[0])
def test_next_response_on_the_same_connection(first: tuple[str, bytes, str, bytes, bool]) -> None:
    parser, _ = parse(first[1], first[2])
    parser.start_response("GET")
    assert not parser.headers_complete
    parser.receive_data(CHUNKED_HEAD + b"3\r\nabc\r\n0\r\n\r\n")
    assert (read_body(parser), parser.message_complete, parser.reusable) == (b"abc", True, True)


@given(st.lists(st.binary(max_size=300), max_size=30), st.lists(st.integers(0, 12_000), max_size=30))
def test_any_body_in_any_chunking(pieces: list[bytes], cuts: list[int]) -> None:
    chunks = b"".join(b"%X\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    parser, body = parse(CHUNKED_HEAD + chunks + b"0\r\n\r\n", split_at=cuts)
    assert body == b"".join(pieces)
    assert parser.message_complete


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    parser, body = parse(OK_LINE + b"\r\nabc")
    assert (body, parser.message_complete) == (b"abc", False)
    assert parser.receive_eof()
    assert (parser.message_complete, parser.reusable) == (True, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        OK_LINE,
        OK_LINE + b"Content-Length: 2\r\n\r\n",
        OK_LINE + b"Content-Length: 2\r\n\r\no",
        CHUNKED_HEAD + b"2\r\nok\r\n",
    ],
)
def test_truncated_response_is_incomplete(raw: bytes) -> None:
    parser, _ = parse(raw)
    assert not parser.receive_eof()
    assert not parser.message_complete


@pytest.mark.parametrize(
    "raw",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 999 Odd\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        OK_LINE + b"Content-Length: -2\r\n\r\n",
        OK_LINE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        OK_LINE + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK_LINE + b"Bad Name: 1\r\n\r\n",
        *(OK_LINE + b"X: a%cb\r\n\r\n" % control for control in (*range(9), *range(10, 32), 127)),
        OK_LINE + b"X: 1\r\n folded\r\n\r\n",
        OK_LINE + b"X: " + b"a" * MAX_RESPONSE_HEADER_BYTES,
        OK_LINE + b"X: 1\r\n" * (MAX_RESPONSE_HEADERS + 1) + b"\r\n",
        CHUNKED_HEAD + b"0x2\r\nok\r\n0\r\n\r\n",
        CHUNKED_HEAD + b"0\r\nContent-Length: 2\r\n\r\n",
        CHUNKED_HEAD + b"2\r\nokX\r\n0\r\n\r\n",
        CHUNKED_HEAD + b"0\r\nX: " + b"a" * (MAX_RESPONSE_HEADER_BYTES + 300_000),
        CHUNKED_HEAD + b"0\r\n" + b"X: 1\r\n" * (MAX_RESPONSE_HEADERS + 1) + b"\r\n",
    ],
    ids=lambda raw: repr(raw[:70]),
)
@pytest.mark.parametrize("size", [200_000, 16_000])
def test_invalid_responses_are_rejected(raw: bytes, size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(raw, split_at=list(range(0, len(raw), size)))


def test_endless_chunk_extension_is_rejected() -> None:
    parser, _ = parse(CHUNKED_HEAD + b"2;")
    for _ in range(MAX_RESPONSE_HEADER_BYTES // 1000):
        parser.receive_data(b"a" * 1000)
    with pytest.raises(RemoteProtocolError):
        parser.receive_data(b"a" * 1000)


def test_white_space_around_values_and_bytes_above_ascii() -> None:
    """RFC 9110, 5.5."""
    parser, body = parse(OK_LINE + b"Content-Length: 2 \t\r\nX:\t \xe9 \r\nY: \r\n\r\nok")
    assert (parser.headers, body) == ([(b"content-length", b"2"), (b"x", b"\xe9"), (b"y", b"")], b"ok")
    parser, body = parse(OK_LINE + b"Transfer-Encoding: chunked \r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert (parser.headers, body) == ([(b"transfer-encoding", b"chunked")], b"ok")


@pytest.mark.parametrize("status", [200, 299, 599])
def test_every_status_of_http_passes(status: int) -> None:
    assert parse(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)[0].status == status


def test_interim_responses_leave_no_state() -> None:
    parser, _ = parse(b"HTTP/1.1 102 Processing\r\nX: 1\r\n\r\n" * 5000, split_at=list(range(0, 200_000, 997)))
    assert (parser.headers_complete, parser.headers, parser.got_100_continue) == (False, [], False)
    parser.receive_data(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (parser.headers_complete, parser.got_100_continue) == (False, True)


def test_small_pieces_are_joined_and_large_ones_passed_unchanged() -> None:
    parser = ResponseParser()
    parser.start_response("GET")
    parser.receive_data(CHUNKED_HEAD + b"1\r\na\r\n" * 100)
    assert (parser.buffered, parser.next_chunk()) == (100, b"a" * 100)
    parser = ResponseParser()
    parser.start_response("GET")
    parser.receive_data(OK_LINE + b"Content-Length: 1000000\r\n\r\n")
    pieces = [bytes(MAX_COALESCED_BYTES), bytes(MAX_COALESCED_BYTES)]
    for piece in pieces:
        parser.receive_data(piece)
    assert parser.next_chunk() is pieces[0], "not even copied"
    assert parser.buffered == MAX_COALESCED_BYTES


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", OK_LINE, CHUNKED_HEAD, OK_LINE + b"Content-Length: 5\r\n\r\n"]),
    st.data(),
)
def test_arbitrary_input_raises_only_the_documented_error(raw: bytes, before: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, 500), max_size=8))
    try:
        parser, body = parse(before + raw, data.draw(st.sampled_from(["GET", "HEAD"])), cuts, closed=True)
    except RemoteProtocolError:
        return
    assert parser.headers_complete or not body
