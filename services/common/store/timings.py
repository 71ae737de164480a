"""The durations by which a store decides what has expired. Each store measures them by one clock of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreTimings:
    """Seconds."""

    lease_ttl: float = 30.0
    """How long a lease lasts that its writer does not renew. After that other writers consider it dead."""
    tombstone_ttl: float = 3600.0
    """How long the blocks of a replaced or deleted version are kept, so that downloads in progress can finish."""
    second_purge_after: float = 600.0
    """When the blocks of a writer that crashed are deleted a second time: it may have been paused before its last insert."""
    outbox_retry_after: float = 30.0
    """The age at which the garbage collector publishes an outbox event: longer than any commit tries to learn its own outcome."""
