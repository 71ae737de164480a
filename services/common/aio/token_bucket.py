"""How often something may happen: a token bucket. Pure: the caller brings the clock."""


class TokenBucket:
    """`rate` a second on average, `burst` at once."""

    __slots__ = ("_burst", "_rate", "_refilled_at", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._refilled_at = now

    def try_acquire(self, now: float, tokens: int = 1) -> bool:
        """Whether `count` more may happen now; they are counted only if so."""
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True
