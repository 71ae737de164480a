"""services.common.store.files: ids, folded names and times."""

import re
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from services.common.store.files.clock import from_milliseconds, to_milliseconds
from services.common.store.files.ids import creation_time, is_id, make_id
from services.common.store.files.rows import fold


def test_ids_are_object_ids() -> None:
    ids = [make_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for one in ids:
        assert is_id(one)
        assert str(ObjectId(one)) == one
    made = ObjectId(ids[0]).generation_time
    assert made.timestamp() == creation_time(ids[0])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60


@pytest.mark.parametrize("text", ["", "0" * 23, "0" * 25, "A" * 24, "\u0660" * 24, "0" * 24 + "\n", "../" * 8])
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_id(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_folding_keeps_the_number_of_characters_and_is_stable(text: str) -> None:
    assert len(fold(text)) == len(text)
    assert fold(fold(text)) == fold(text)


@given(st.from_regex(re.compile("[a-zA-Z]{0,9}"), fullmatch=True))
def test_folding_ignores_the_case(text: str) -> None:
    assert fold(text) == fold(text.upper()) == fold(text.lower())


@given(st.integers(0, 4_102_444_800_000))
def test_times_survive_the_way_to_a_date_and_back(value: int) -> None:
    assert to_milliseconds(from_milliseconds(value)) == value
