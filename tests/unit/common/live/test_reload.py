"""Blocking reloads: which directives are refused, which wait, and when a stream is steady enough to offer them."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.reload import Cadence, InvalidReload, Reload, decide, hold_seconds, parse_reload


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Reload()),
        ("other=1&other=2", Reload()),
        ("_HLS_msn=7", Reload(7)),
        ("_HLS_msn=0&_HLS_part=3", Reload(0)),
        ("_HLS_skip=YES", Reload(None, True)),
        ("_HLS_skip=v2&_HLS_msn=12", Reload(12, True)),
    ],
)
def test_directives(query: str, expected: Reload) -> None:
    assert parse_reload(parse_qsl(query)) == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("_HLS_msn=-1", "not a number"),
        ("_HLS_msn=x", "not a number"),
        ("_HLS_msn=", "not a number"),
        ("_HLS_msn=%D9%A1", "not a number"),
        ("_HLS_msn=" + "9" * 16, "not a number"),
        ("_HLS_msn=1&_HLS_msn=1", "twice"),
        ("_HLS_part=0", "without _HLS_msn"),
        ("_HLS_msn=1&_HLS_part=0.5", "not a number"),
        ("_HLS_skip=NO", "neither"),
    ],
)
def test_directives_without_a_meaning(query: str, reason: str) -> None:
    with pytest.raises(InvalidReload, match=reason):
        parse_reload(parse_qsl(query, keep_blank_values=True))


@given(sequence=st.none() | st.integers(0, 20), last=st.integers(-1, 20), ended=st.booleans())
def test_what_is_there_is_answered_what_comes_next_is_held(sequence: int | None, last: int, ended: bool) -> None:
    ahead = 0 if sequence is None or ended else sequence - last
    if ahead > 2:
        with pytest.raises(InvalidReload, match="ahead"):
            decide(Reload(sequence), last, ended=ended)
        return
    assert decide(Reload(sequence), last, ended=ended) == ("hold" if ahead > 0 else "answer")


@pytest.mark.parametrize(("target", "seconds"), [(1, 3), (2, 6), (6, 8)])
def test_a_hold_ends_before_players_give_up(target: int, seconds: float) -> None:
    assert hold_seconds(target) == seconds


@pytest.mark.parametrize(
    ("times", "steady"),
    [
        ([0, 2, 4], False),
        ([0, 2, 4, 6], True),
        ([0, 2.9, 4, 6.5], True),
        ([0, 2, 4, 8, 10, 12], False),
        ([0, 0, 0, 6, 6, 6, 12], False),
        ([0, 2, 4, 6, 60, 60, 60], True),
    ],
)
def test_reloads_may_block_after_a_steady_cadence_and_for_ever(times: list[float], steady: bool) -> None:
    cadence = Cadence()
    for now in times:
        cadence.add(2, now)
    assert cadence.is_steady is steady
