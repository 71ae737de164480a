"""services.common.http.query: parameters, and what is rejected."""

import pytest

from services.common.errors import BadRequest
from services.common.http.query import MAX_QUERY_PARAMETERS, parse_query, parse_query_pairs


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        (b"", []),
        (b"a=1&b=", [("a", "1"), ("b", "")]),
        (b"b=2&a=%C3%A4+x", [("b", "2"), ("a", "\u00e4 x")]),
        (b"a=1&a=2", [("a", "1"), ("a", "2")]),
    ],
)
def test_pairs_keep_their_order(query: bytes, pairs: list[tuple[str, str]]) -> None:
    assert parse_query_pairs(query) == pairs


@pytest.mark.parametrize(
    "query", [b"a=%ff", b"a=\xc3\xa4", b"a=%c3", b"&".join(b"a%d=1" % n for n in range(MAX_QUERY_PARAMETERS + 1))]
)
def test_other_encodings_and_too_many_parameters_are_rejected(query: bytes) -> None:
    for parse in (parse_query_pairs, parse_query):
        with pytest.raises(BadRequest, match="not percent-encoded UTF-8"):
            parse(query)


def test_a_parameter_with_two_values_is_rejected() -> None:
    assert parse_query(b"a=1&b=1") == {"a": "1", "b": "1"}
    with pytest.raises(BadRequest, match="duplicate query parameter"):
        parse_query(b"a=1&b=2&a=1")
