"""services.stream.preconditions: the table of RFC 9110, 13.1, and Hypothesis against a model that spells out 13.2.2."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.stream.preconditions import PreconditionResult, evaluate_preconditions, if_range_matches

ETAG = '"sha256-aa"'
MODIFIED = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


TAG_COMPARISONS = {
    ETAG: "strong",
    f"W/{ETAG}": "weak",
    '"x"': "other",
    'W/"x"': "other",
    '"a,b"': "other",
    '""': "other",
}


@settings(max_examples=1000, deadline=None)
@given(
    match=st.none() | st.just("*") | st.lists(st.sampled_from(sorted(TAG_COMPARISONS)), min_size=1, max_size=4),
    none_match=st.none() | st.just("*") | st.lists(st.sampled_from(sorted(TAG_COMPARISONS)), min_size=1, max_size=4),
    unmodified=st.none() | st.sampled_from([-1, 0, 1]) | st.just("garbage"),
    modified=st.none() | st.sampled_from([-1, 0, 1]) | st.just("garbage"),
    comma=st.sampled_from([",", ", ", " ,\t", ",,", ", ,"]),
)
def test_the_order_of_preconditions(
    match: str | list[str] | None,
    none_match: str | list[str] | None,
    unmodified: int | str | None,
    modified: int | str | None,
    comma: str,
) -> None:
    headers: dict[str, str] = {}
    for name, tags in (("if-match", match), ("if-none-match", none_match)):
        if tags is not None:
            headers[name] = tags if isinstance(tags, str) else comma.join(tags)
    for name, shift in (("if-unmodified-since", unmodified), ("if-modified-since", modified)):
        if shift is not None:
            headers[name] = shift if isinstance(shift, str) else http_date(MODIFIED + shift * SECOND)

    def strongly(tags: str | list[str]) -> bool:
        return tags == "*" or ETAG in tags

    def weakly(tags: str | list[str]) -> bool:
        return tags == "*" or ETAG in tags or f"W/{ETAG}" in tags

    # 13.2.2, step by step.
    expected = PreconditionResult.PROCEED
    if (match is not None and not strongly(match)) or (match is None and unmodified == -1):
        expected = PreconditionResult.FAILED
    elif (none_match is not None and weakly(none_match)) or (none_match is None and modified in {0, 1}):
        expected = PreconditionResult.NOT_MODIFIED
    assert evaluate_preconditions(headers, ETAG, MODIFIED, NOW) is expected


@pytest.mark.parametrize(
    ("header", "strong", "weak"),
    [
        ("*", True, True),
        (" * ", True, True),
        (ETAG, True, True),
        (f"W/{ETAG}", False, True),
        (f"w/{ETAG}", False, False),
        (f'"a,b", {ETAG}', True, True),
        (f",, {ETAG} ,", True, True),
        (ETAG.strip('"'), False, False),
        (f"junk, {ETAG}", False, False),
        (f"*, {ETAG}", False, False),
        (f"{ETAG[:-1]}", False, False),
        ("", False, False),
        (f'"a b", {ETAG}', False, False),
        ('"\x80\xff"', False, False),
    ],
)
def test_lists_of_entity_tags(header: str, *, strong: bool, weak: bool) -> None:
    assert (evaluate_preconditions({"if-match": header}, ETAG, MODIFIED, NOW) is PreconditionResult.PROCEED) == strong
    assert (
        evaluate_preconditions({"if-none-match": header}, ETAG, MODIFIED, NOW) is PreconditionResult.NOT_MODIFIED
    ) == weak


@pytest.mark.parametrize(
    ("validator", "applies"),
    [
        (ETAG, True),
        (f" {ETAG} ", True),
        (f"W/{ETAG}", False),
        ('"old"', False),
        ("sha256-aa", False),
        ("*", False),
        ("", False),
        (http_date(MODIFIED), False),
        (f"{ETAG}, {ETAG}", False),
        (http_date(MODIFIED - SECOND), False),
        (http_date(MODIFIED + SECOND), False),
        ("Sunday", False),
    ],
)
def test_if_range(validator: str, *, applies: bool) -> None:
    """Case 45: exactly the current validator, and a strong one."""
    assert if_range_matches({"if-range": validator}, ETAG) is applies


def test_range_applies_without_if_range() -> None:
    assert if_range_matches({}, ETAG)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_arbitrary_text_raises_nothing(text: str) -> None:
    names = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
    for name in names:
        assert evaluate_preconditions({name: text}, ETAG, MODIFIED, NOW) in PreconditionResult
        assert if_range_matches({name: text}, ETAG) in {True, False}
