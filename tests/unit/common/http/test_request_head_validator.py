"""What the head of a request may be (services.common.http.request_head), as calls in and errors out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, ExpectationFailed, GridcastError, HeadersTooLarge
from services.common.http.request_head import MAX_FIELD_BYTES, MAX_FIELDS, RequestHeadValidator

Field = tuple[bytes, bytes]
HOST: Field = (b"host", b"a")


def judged(*fields: Field, version: str = "1.1") -> RequestHeadValidator:
    head = RequestHeadValidator()
    for name, value in fields:
        head.count_field(name, value)
        head.validate_field(name, value)
    head.validate_head(version)
    return head


@pytest.mark.parametrize(
    ("fields", "has_body", "waits"),
    [
        ([], False, False),
        ([(b"content-length", b"0")], False, False),
        ([(b"content-length", b"000")], False, False),
        ([(b"content-length", b"10")], True, False),
        ([(b"transfer-encoding", b"Chunked")], True, False),
        ([(b"content-length", b"1"), (b"expect", b"100-Continue")], True, True),
    ],
)
def test_what_a_head_says_of_its_body(fields: list[Field], *, has_body: bool, waits: bool) -> None:
    head = judged(HOST, *fields)
    assert (head.has_body, head.expect_continue) == (has_body, waits)


def test_an_older_client_is_not_told_to_continue() -> None:
    """RFC 9110, 10.1.1: it would take the 100 for the answer."""
    assert not judged((b"content-length", b"1"), (b"expect", b"100-continue"), version="1.0").expect_continue


@pytest.mark.parametrize(
    "host", [b"a", b"a.example:8000", b"A-1_b.c", b"127.0.0.1:1", b"[::1]", b"[::ffff:1.2.3.4]:80"]
)
def test_a_host(host: bytes) -> None:
    judged((b"host", host))


@pytest.mark.parametrize(
    "host", [b"", b"a:", b"a:b", b"a/b", b"a@b", b"a b", b"a,b", b"[]", b"[::1", b"::1", b"a\n", b"\xe9"]
)
def test_what_is_no_host(host: bytes) -> None:
    with pytest.raises(BadRequest):
        judged((b"host", host))


@pytest.mark.parametrize(
    ("fields", "version", "ok"),
    [
        ([HOST], "1.1", True),
        ([], "1.1", False),
        ([HOST, HOST], "1.1", False),
        ([], "1.0", True),
        ([HOST, HOST], "1.0", False),
        ([(b"transfer-encoding", b"chunked")], "1.0", False),
        ([HOST], "0.9", False),
        ([HOST], "2.0", False),
    ],
)
def test_hosts_and_versions(fields: list[Field], version: str, *, ok: bool) -> None:
    if ok:
        judged(*fields, version=version)
    else:
        with pytest.raises(BadRequest):
            judged(*fields, version=version)


def test_how_many_and_how_large_fields_may_be() -> None:
    head = RequestHeadValidator()
    for _ in range(MAX_FIELDS):
        head.count_field(b"a", b"b")
    with pytest.raises(HeadersTooLarge):
        head.count_field(b"a", b"b")
    RequestHeadValidator().count_field(b"a", b"b" * (MAX_FIELD_BYTES - 5))
    with pytest.raises(HeadersTooLarge):
        RequestHeadValidator().count_field(b"a", b"b" * (MAX_FIELD_BYTES - 4))


def test_another_expectation() -> None:
    with pytest.raises(ExpectationFailed):
        judged(HOST, (b"expect", b"200-ok"))


@given(
    st.lists(
        st.tuples(st.sampled_from([b"host", b"transfer-encoding", b"content-length", b"x"]), st.binary(max_size=12))
    )
)
def test_it_never_fails_in_another_way(fields: list[Field]) -> None:
    status = 200
    try:
        judged(*fields)
    except GridcastError as error:
        status = error.status
    assert status < 500
