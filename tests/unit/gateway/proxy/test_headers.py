"""gateway.proxy.headers: what the gateway drops, keeps and adds, in requests and in responses."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forwarded import Client
from gateway.proxy import headers
from services.common.errors import BadGateway

CLIENT = Client("10.1.2.3", "https", "a.example")
FORWARDED_HEADERS = {
    b"x-forwarded-for": b"10.1.2.3",
    b"x-forwarded-proto": b"https",
    b"x-forwarded-host": b"a.example",
} | {b"x-request-id": b"id-1"}
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

header_names = st.from_regex(rb"[a-z0-9_-]{1,20}", fullmatch=True)
header_values = st.binary(max_size=30).filter(lambda value: not set(value) & set(b"\r\n\0"))
header_pairs = st.lists(
    st.tuples(
        st.one_of(
            header_names,
            st.sampled_from(
                [
                    b"connection",
                    b"x-forwarded-for",
                    b"x-forwarded-proto",
                    b"x_forwarded_for",
                    b"x-request-id",
                    b"te",
                    b"host",
                ]
            ),
        ),
        st.one_of(header_values, st.sampled_from([b"x-forwarded-for, x-request-id", b"close", b"X-Forwarded-Proto"])),
    ),
    max_size=12,
)


def request_headers(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The header lines for the upstream, parsed again."""
    lines = headers.build_request_headers(pairs, CLIENT, "id-1")
    assert lines.endswith(b"\r\n")
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines[:-2].split(b"\r\n"))]


def request_header_dict(*pairs: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    found = request_headers(pairs)
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    "name",
    [
        b"x-gridcast-subject",
        b"x-user",
        b"x-user-id",
        b"x-forwarded-user",
        b"x-remote-user",
        b"remote-user",
        b"x-auth-request-email",
    ],
)
def test_fields_that_state_an_identity_are_dropped(name: bytes) -> None:
    """No service reads one; a client could set it, in the hope that one does."""
    assert request_header_dict((name, b"admin"), (b"accept", b"*/*")) == {b"accept": b"*/*"} | FORWARDED_HEADERS


def test_end_to_end_headers_pass() -> None:
    own = [(b"accept", b"*/*"), (b"range", b"bytes=0-1"), (b"authorization", b"Bearer x"), (b"user-agent", b"curl")]
    assert request_header_dict(*own) == dict(own) | FORWARDED_HEADERS


@pytest.mark.parametrize(
    "name",
    [
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"forwarded",
        b"x-real-ip",
        b"x-forwarded-prefix",
        b"x-forwarded-port",
        b"x_forwarded_for",
        b"a_b",
    ],
)
def test_hop_by_hop_and_spoofed_headers_are_dropped(name: bytes) -> None:
    assert request_header_dict((name, b"1")) == FORWARDED_HEADERS


def test_headers_named_by_connection_are_dropped_before_ours_are_added() -> None:
    named = (b"connection", b"X-Forwarded-For , x-forwarded-proto,X-Own, x-request-id, host")
    assert request_header_dict(
        named, (b"x-own", b"1"), (b"host", b"a"), (b"x-forwarded-for", b"6")
    ) == FORWARDED_HEADERS | {b"host": b"a"}


def test_several_connection_fields_count_together() -> None:
    assert request_header_dict(
        (b"connection", b"a"), (b"connection", b"b"), (b"a", b"1"), (b"b", b"1"), (b"c", b"1")
    ) == FORWARDED_HEADERS | {b"c": b"1"}


def test_content_length_survives_being_named_by_connection() -> None:
    assert request_header_dict((b"connection", b"content-length"), (b"content-length", b"5"))[b"content-length"] == b"5"


def test_cookie_lines_are_joined_with_semicolons() -> None:
    assert request_header_dict((b"cookie", b"a=1"), (b"cookie", b"b=2"))[b"cookie"] == b"a=1; b=2"


@pytest.mark.parametrize(
    ("trace", "kept"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.upper(), False),
        (b"ff" + TRACEPARENT[2:], False),
        (b"00-" + b"0" * 32 + TRACEPARENT[35:], False),
        (TRACEPARENT[:36] + b"0" * 16 + TRACEPARENT[52:], False),
        (TRACEPARENT + b"-x", False),
        (b"", False),
    ],
)
def test_well_formed_traceparent_is_kept(trace: bytes, *, kept: bool) -> None:
    found = request_header_dict((b"traceparent", trace), (b"tracestate", b"a=b"))
    assert (found.get(b"traceparent"), found.get(b"tracestate")) == ((trace, b"a=b") if kept else (None, None))


def test_duplicate_traceparent_is_dropped() -> None:
    assert b"traceparent" not in dict(request_headers([(b"traceparent", TRACEPARENT)] * 2))


@pytest.mark.parametrize("name", [b"user-agent", b"referer", b"cookie", b"x"])
@pytest.mark.parametrize("value", ["é".encode(), b"\xe9", b"a\x80\xff"])
def test_bytes_above_ascii_pass(name: bytes, value: bytes) -> None:
    """RFC 9110, 5.5: they are opaque."""
    assert request_header_dict((name, value))[name] == value


@given(header_pairs)
def test_forwarded_headers_are_set_once_and_cannot_be_spoofed(pairs: list[tuple[bytes, bytes]]) -> None:
    found = request_headers(pairs)
    assert [pair for pair in found if pair[0] in FORWARDED_HEADERS] == list(FORWARDED_HEADERS.items())
    assert not any(b"_" in name or name in {b"connection", b"te", b"transfer-encoding"} for name, _ in found)
    assert all(
        name in {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
        for name, _ in found
        if b"forwarded" in name
    )


def test_header_with_a_line_break_is_never_sent() -> None:
    with pytest.raises(ValueError, match="line break"):
        request_headers([(b"x", b"a\r\ny: b")])


def test_response_keeps_its_end_to_end_headers_in_order() -> None:
    own = [(b"content-type", b"video/webm"), (b"etag", b'"a"'), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    made = headers.filter_response_headers(
        [*own, (b"content-length", b"5"), (b"server", b"x"), (b"date", b"x"), (b"x-request-id", b"x")], 200
    )
    assert made == [*own, (b"content-length", b"5")]


def test_headers_named_by_the_response_connection_are_dropped() -> None:
    assert headers.filter_response_headers([(b"connection", b"X-Own, close"), (b"x-own", b"1"), (b"a", b"1")], 200) == [
        (b"a", b"1")
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"")],
        [(b"transfer-encoding", b"gzip")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_malformed_response_headers_are_rejected(pairs: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadGateway):
        headers.filter_response_headers(pairs, 200)


@pytest.mark.parametrize("status", [204, 304])
def test_response_without_a_body_has_no_length(status: int) -> None:
    assert headers.filter_response_headers([(b"content-length", b"7")], status) == []


@pytest.mark.parametrize(
    ("location", "relative"),
    [
        (b"/file/stream?a=b", b"/file/stream?a=b"),
        (b"?a=b", b"?a=b"),
        (b"http://10.0.0.7:8002/a?b#c", b"/a?b#c"),
        (b"https://inside", b"/"),
        (b"//inside/a", b"/a"),
        (b"http://inside?a", b"/?a"),
    ],
)
def test_location_is_made_relative(location: bytes, relative: bytes) -> None:
    assert headers.filter_response_headers([(b"location", location)], 201) == [(b"location", relative)]
