"""A token bucket: limits how often something may happen. The caller passes the time."""


class TokenBucket:
    """Refills with `rate` tokens per second, and holds at most `burst`. Starts full."""

    __slots__ = ("_burst", "_rate", "_refilled_at", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """`now` in seconds of any clock, the same one at each call."""
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._refilled_at = now

    def try_acquire(self, now: float, tokens: int = 1) -> bool:
        """Take `tokens`. Returns False, and takes none, where the bucket holds fewer."""
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def seconds_until(self, tokens: int = 1) -> float:
        """Return the seconds from the last `try_acquire` until the bucket holds `tokens`, which must be at most `burst`."""
        return max(0.0, (tokens - self._tokens) / self._rate)
