"""services.common.http.etags: lists of entity tags, and what is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.http.etags import ETag, is_wildcard, iter_etags

OPAQUE = st.text(st.characters(codec="latin-1", exclude_characters='"\x7f', min_codepoint=0x21), max_size=8)


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("", []),
        (" , ,", []),
        ('""', [ETag('""', weak=False)]),
        ('"a"', [ETag('"a"', weak=False)]),
        ('W/"a"', [ETag('"a"', weak=True)]),
        (',, "a,b" , W/"c",', [ETag('"a,b"', weak=False), ETag('"c"', weak=True)]),
    ],
)
def test_lists(header: str, tags: list[ETag]) -> None:
    assert list(iter_etags(header)) == tags


@pytest.mark.parametrize("header", ["a", '"a', 'a"', 'w/"a"', '"a" "b"', '"a\x7f"', '*, "a"', '"a", *'])
def test_malformed_lists_are_errors(header: str) -> None:
    with pytest.raises(ValueError, match="not a list of entity tags"):
        list(iter_etags(header))


def test_tags_before_a_malformed_element_are_yielded() -> None:
    found = iter_etags('"a", b')
    assert next(found) == ETag('"a"', weak=False)
    with pytest.raises(ValueError, match="not a list"):
        next(found)


@given(st.lists(st.tuples(OPAQUE, st.booleans()), max_size=5))
def test_every_list_is_parsed_back(tags: list[tuple[str, bool]]) -> None:
    header = ", ".join(f'{"W/" if weak else ""}"{opaque}"' for opaque, weak in tags)
    assert [(tag.opaque_tag.strip('"'), tag.weak) for tag in iter_etags(header)] == tags


@pytest.mark.parametrize(
    ("header", "result"), [("*", True), (" *\t", True), ('"*"', False), ("", False), ("**", False)]
)
def test_wildcard(header: str, result: bool) -> None:
    assert is_wildcard(header) is result
