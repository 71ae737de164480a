"""The retry schedule, by table and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.upload.webhooks.retry_schedule import (
    JITTER,
    LONGEST_RETRY_AFTER_SECONDS,
    MAX_TRIES,
    RETRY_DELAYS_SECONDS,
    Decision,
    TryOutcome,
    decide,
)


def middle() -> float:
    return 0.5


def test_ten_tries_over_75_hours() -> None:
    assert MAX_TRIES == 10
    assert 75 * 3600 <= sum(RETRY_DELAYS_SECONDS) < 76 * 3600


@pytest.mark.parametrize(
    ("answer", "failures", "expected"),
    [
        (TryOutcome(200), 0, Decision("delivered")),
        (TryOutcome(204), 9, Decision("delivered")),
        (TryOutcome(299), 0, Decision("delivered")),
        (TryOutcome(302), 0, Decision("retry", 5)),
        (TryOutcome(304), 1, Decision("retry", 300)),
        (TryOutcome(410), 0, Decision("ended")),
        (TryOutcome(410), 9, Decision("ended")),
        (TryOutcome(404), 0, Decision("retry", 5)),
        (TryOutcome(500), 8, Decision("retry", 86_400)),
        (TryOutcome(500), 9, Decision("dead")),
        (TryOutcome(None, "no connection"), 9, Decision("dead")),
        (TryOutcome(None, "no connection"), 0, Decision("retry", 5)),
        (TryOutcome(None, "no answer", timed_out=True), 0, Decision("retry", 60)),
        (TryOutcome(429), 0, Decision("retry", 60)),
        (TryOutcome(502), 0, Decision("retry", 60)),
        (TryOutcome(429, retry_after=7), 0, Decision("retry", 60)),
        (TryOutcome(429, retry_after=120), 0, Decision("retry", 120)),
        (TryOutcome(503, retry_after=120), 0, Decision("retry", 120)),
        (TryOutcome(503, retry_after=120), 1, Decision("retry", 300)),
        (TryOutcome(503, retry_after=1e9), 0, Decision("retry", LONGEST_RETRY_AFTER_SECONDS)),
        (TryOutcome(100), 0, Decision("retry", 5)),
    ],
    ids=str,
)
def test_decisions(answer: TryOutcome, failures: int, expected: Decision) -> None:
    decision = decide(answer, failures, middle)
    assert decision.verdict == expected.verdict
    assert decision.delay == pytest.approx(expected.delay)


@given(st.integers(0, 8), st.floats(0, 1))
def test_jitter_is_bounded(failures: int, drawn: float) -> None:
    delay, base = decide(TryOutcome(500), failures, lambda: drawn).delay, RETRY_DELAYS_SECONDS[failures]
    assert base * (1 - JITTER) * 0.999 <= delay <= base * (1 + JITTER) * 1.001
