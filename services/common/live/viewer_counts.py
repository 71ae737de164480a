"""How viewers of live streams are counted in Redis. Pure.

A viewer is an address and a user agent that asked for a list or a segment within the last target durations. Replicas add hashes to
sets that only estimate how many members they have (HyperLogLog), so that a viewer whose requests go to several replicas is counted
once, and nothing that identifies a person is stored. The salt of the hashes is forgotten after a day.
"""

import datetime as dt
import hashlib

VIEWER_TARGETS = 3
"""Target durations for which a viewer is counted after a request."""
BUCKETS = 3
"""Sets that are counted together; a request is in the newest, which begins each VIEWER_TARGETS / (BUCKETS - 1) targets."""
COUNT_LIFE_SECONDS = 30
"""How long a count is kept in Redis that no replica confirms."""
SALT_LIFE_SECONDS = 2 * 86_400


def bucket_of(now: float, target: int) -> int:
    """Return the number of the set that a request at `now`, a Unix time in seconds, belongs to."""
    return int(now / (target * VIEWER_TARGETS / (BUCKETS - 1)))


def bucket_key(stream_id: str, bucket: int) -> str:
    """Return the key of one set."""
    return f"gridcast:live:{stream_id}:seen:{bucket}"


def count_key(stream_id: str) -> str:
    """Return the key of the number of viewers, as decimal text: what was published last."""
    return f"gridcast:live:{stream_id}:viewers"


def turn_key(stream_id: str) -> str:
    """Return the key that a replica holds for a second to publish the number."""
    return f"gridcast:live:{stream_id}:turn"


def steady_key(stream_id: str) -> str:
    """Return the key that says that reloads of the stream's list may block."""
    return f"gridcast:live:{stream_id}:steady"


def salt_key(now: float) -> str:
    """Return the key of the salt of the day, in UTC."""
    return f"gridcast:live:salt:{dt.datetime.fromtimestamp(now, dt.UTC):%Y-%m-%d}"


def hash_viewer(salt: bytes, address: str, agent: str) -> bytes:
    """Return what stands for a viewer during a day."""
    return hashlib.blake2b(f"{address}\n{agent}".encode("utf-8", "replace"), key=salt[:64], digest_size=12).digest()
