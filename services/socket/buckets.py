"""How often something may happen: a token bucket. Pure: the caller brings the clock."""


class Bucket:
    """`rate` a second on average, `burst` at once."""

    __slots__ = ("_burst", "_rate", "_then", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._then = now

    def take(self, now: float, count: int = 1) -> bool:
        """Whether `count` more may happen now; they are counted only if so."""
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
