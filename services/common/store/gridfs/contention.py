"""The wait between two attempts of an update that others keep from matching: they change the same document at the same time."""

import asyncio
import random

CONTENTION_WAIT_SECONDS = 0.02
"""The wait on average before the second attempt; each further one waits that much longer, up to MAX_CONTENTION_WAITS times."""
MAX_CONTENTION_WAITS = 10


async def wait_before_attempt(attempt: int) -> None:
    """Wait a random time, none before attempt 0: attempts that begin together would fail together each time."""
    if attempt > 0:
        longest = 2 * CONTENTION_WAIT_SECONDS * min(attempt, MAX_CONTENTION_WAITS)
        await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # jitter, not a secret
