"""The circuit breaker under a clock of the test."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.webhooks.circuit_breaker import (
    BASE_OPEN_SECONDS,
    FAILURES_TO_OPEN,
    MAX_OPEN_SECONDS,
    CircuitBreaker,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def open_breaker() -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.try_acquire()
        breaker.record(success=False)
    return breaker, clock


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker(Clock())
    for success in [False] * (FAILURES_TO_OPEN - 1) + [True] + [False] * (FAILURES_TO_OPEN - 1):
        assert breaker.try_acquire()
        breaker.record(success=success)
    assert breaker.try_acquire()
    breaker.record(success=False)
    assert not breaker.try_acquire()
    assert breaker.retry_after == BASE_OPEN_SECONDS


def test_one_probe_at_a_time_closes_it_or_doubles_the_wait() -> None:
    breaker, clock = open_breaker()
    clock.now += BASE_OPEN_SECONDS
    assert breaker.try_acquire()
    assert not breaker.try_acquire(), "one probe"
    breaker.record(success=False)
    clock.now += BASE_OPEN_SECONDS
    assert not breaker.try_acquire(), "twice as long"
    clock.now += BASE_OPEN_SECONDS
    assert breaker.try_acquire()
    breaker.release()
    assert breaker.try_acquire(), "a probe that was given up lets the next one try"
    breaker.record(success=True)
    assert all(breaker.try_acquire() for _ in range(10))


def test_the_wait_is_bounded() -> None:
    breaker, clock = open_breaker()
    for _ in range(20):
        clock.now += MAX_OPEN_SECONDS
        assert breaker.try_acquire()
        breaker.record(success=False)
        assert breaker.retry_after <= MAX_OPEN_SECONDS


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100))))
def test_it_never_stays_shut(steps: list[tuple[bool, float]]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for success, wait in steps:
        if breaker.try_acquire():
            breaker.record(success=success)
        clock.now += wait
    clock.now += MAX_OPEN_SECONDS
    assert breaker.try_acquire()
