"""services.common.http.headers: single header fields, and request ids that are well-formed."""

import pytest

from services.common.http import headers


@pytest.mark.parametrize(
    ("value", "kept"), [(b"a-1._Z", "a-1._Z"), (b"", None), (b"a b", None), (b"a" * 65, None), (b"a\n", None)]
)
def test_client_request_id(value: bytes, kept: str | None) -> None:
    assert headers.incoming_request_id([(b"x-request-id", value)]) == kept


def test_find_header_returns_the_first_field_of_a_name() -> None:
    fields = [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]
    assert (headers.find_header(fields, b"b"), headers.find_header(fields, b"c")) == (b"2", None)
