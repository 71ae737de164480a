"""A circuit breaker: after failures in a row nothing is asked for a while, then one request at a time tries again. Pure."""

from collections.abc import Callable

FAILURES_TO_OPEN = 5
BASE_OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 60.0


class CircuitBreaker:
    """Closed, open, or half-open. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._open_seconds = BASE_OPEN_SECONDS
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether enough requests have failed, and none has succeeded since."""
        return self._failures >= FAILURES_TO_OPEN

    def try_acquire(self) -> bool:
        """Return whether a request may be sent. Each that may is followed by `record` or `release`."""
        if not self.is_open:
            return True
        if self._is_probing or self._clock() < self._open_until:
            return False
        self._is_probing = True
        return True

    def record(self, *, success: bool) -> None:
        """Note the outcome of a request."""
        self._is_probing = False
        if success:
            self._failures = 0
            self._open_seconds = BASE_OPEN_SECONDS
            return
        was_open = self.is_open
        self._failures += 1
        if self.is_open:
            if was_open:
                self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
            self._open_until = self._clock() + self._open_seconds

    def release(self) -> None:
        """Note that a request was given up without an outcome: the next one may try."""
        self._is_probing = False

    @property
    def retry_after(self) -> float:
        """Seconds until a request may be sent again."""
        return max(0.0, self._open_until - self._clock())
