"""When a delivery is tried again, and when no more: ten tries over 75 hours (Standard Webhooks 1.0, "Retry schedule"). Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

RETRY_DELAYS_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After the first failure, the second, and so on. The failure of the tenth try is the last."""
MAX_TRIES = len(RETRY_DELAYS_SECONDS) + 1
JITTER = 0.1
"""A delay is longer or shorter by up to this share, so that what failed together does not come back together."""
THROTTLE_SECONDS = 60.0
"""The shortest delay after a status that asks for less, or after a time-out."""
THROTTLING_STATUSES = frozenset({429, 502, 504})
LONGEST_RETRY_AFTER_SECONDS = 86_400.0
"""Retry-After is heard up to this."""

Verdict = Literal["delivered", "retry", "dead", "ended"]


@dataclass(frozen=True, slots=True)
class TryOutcome:
    """What came of one try: a status, or an error in words where there was none.

    `retry_after` in seconds. `latency` in seconds, from the connection to the end of the answer.
    """

    status: int | None = None
    error: str = ""
    retry_after: float | None = None
    latency: float = 0.0
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows: `delivered`; `retry` after `delay` seconds; `dead`, no more tries; `ended`, the endpoint wants nothing more."""

    verdict: Verdict
    delay: float = 0.0


def decide(answer: TryOutcome, failures_before: int, draw: Callable[[], float]) -> Decision:
    """Judge the answer of a try.

    Arguments:
        answer: what came of it. Only a 2xx is success: a redirect is not followed, because a POST would become a GET.
        failures_before: how many tries of this delivery failed before.
        draw: returns a random number from 0 to 1.

    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Decision("delivered")
    if answer.status == 410:
        return Decision("ended")
    if failures_before >= len(RETRY_DELAYS_SECONDS):
        return Decision("dead")
    delay = RETRY_DELAYS_SECONDS[failures_before] * (1 - JITTER + 2 * JITTER * draw())
    if answer.timed_out or answer.status in THROTTLING_STATUSES:
        delay = max(delay, THROTTLE_SECONDS)
    if answer.retry_after is not None:
        delay = max(delay, min(answer.retry_after, LONGEST_RETRY_AFTER_SECONDS))
    return Decision("retry", delay)
