"""services.common.live.segment_table: what it returns is what a list returns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.segment_table import SegmentTable
from services.common.live.segments import Segment

TICKS = st.integers(-(2**63), 2**63 - 1)
FIELDS = st.tuples(
    st.integers(0, 2**32 - 1),
    *[TICKS] * 4,
    st.integers(0, 2**32 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
)
PLACES = st.none() | st.integers(-12, 12)


@given(st.lists(FIELDS, max_size=9), PLACES, PLACES, st.sampled_from([None, 1, 2, 3, -1, -2]))
def test_it_is_like_a_list(
    fields: list[tuple[object, ...]], first: int | None, end: int | None, step: int | None
) -> None:
    segments = [Segment._make((number, *rest)) for number, rest in enumerate(fields)]
    table = SegmentTable()
    for segment in segments:
        table.append(segment)
    assert list(table) == segments
    assert len(table) == len(segments)
    assert table[first:end:step] == segments[first:end:step]
    for index in range(-len(segments), len(segments)):
        assert table[index] == segments[index]
    for index in (len(segments), -len(segments) - 1):
        with pytest.raises(IndexError):
            _ = table[index]
    with pytest.raises(ValueError, match="is next"):
        table.append(Segment(len(segments) + 1, 0, 0, 1, 0, 1, 1, 0.0, is_key=True))
