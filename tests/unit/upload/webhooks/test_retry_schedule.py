"""The retry schedule, by table and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.upload.webhooks.retry_schedule import (
    JITTER,
    MAX_RETRY_AFTER_SECONDS,
    MAX_TRIES,
    RETRY_DELAYS_SECONDS,
    Answer,
    Decision,
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
        (Answer(200), 0, Decision("delivered")),
        (Answer(204), 9, Decision("delivered")),
        (Answer(299), 0, Decision("delivered")),
        (Answer(302), 0, Decision("retry", 5)),
        (Answer(304), 1, Decision("retry", 300)),
        (Answer(410), 0, Decision("ended")),
        (Answer(410), 9, Decision("ended")),
        (Answer(404), 0, Decision("retry", 5)),
        (Answer(500), 8, Decision("retry", 86_400)),
        (Answer(500), 9, Decision("dead")),
        (Answer(None, "no connection"), 9, Decision("dead")),
        (Answer(None, "no connection"), 0, Decision("retry", 5)),
        (Answer(None, "no answer", timed_out=True), 0, Decision("retry", 60)),
        (Answer(429), 0, Decision("retry", 60)),
        (Answer(502), 0, Decision("retry", 60)),
        (Answer(429, retry_after=7), 0, Decision("retry", 60)),
        (Answer(429, retry_after=120), 0, Decision("retry", 120)),
        (Answer(503, retry_after=120), 0, Decision("retry", 120)),
        (Answer(503, retry_after=120), 1, Decision("retry", 300)),
        (Answer(503, retry_after=1e9), 0, Decision("retry", MAX_RETRY_AFTER_SECONDS)),
        (Answer(100), 0, Decision("retry", 5)),
    ],
    ids=str,
)
def test_decisions(answer: Answer, failures: int, expected: Decision) -> None:
    decision = decide(answer, failures, middle)
    assert decision.verdict == expected.verdict
    assert decision.delay == pytest.approx(expected.delay)


@given(st.integers(0, 8), st.floats(0, 1))
def test_jitter_is_bounded(failures: int, drawn: float) -> None:
    delay, base = decide(Answer(500), failures, lambda: drawn).delay, RETRY_DELAYS_SECONDS[failures]
    assert base * (1 - JITTER) * 0.999 <= delay <= base * (1 + JITTER) * 1.001
