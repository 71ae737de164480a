"""Quotas of owners: how many bytes one subject may store, and how many unfinished uploads it may have.

An upload reserves the bytes of its stated length when it is created, one of unknown length what it receives. The commit turns the
reservation into bytes of a stored file; without one it ends with the upload. Replaced and deleted versions are not counted. A
poster counts for the owner of its file, and comes and goes with it.
"""

from dataclasses import dataclass

from services.common.errors import InsufficientStorage, TooManyRequests
from services.common.store.limits import RETRY_LATER
from services.common.telemetry import metrics

MAX_RESERVATIONS = 1000
"""Unfinished uploads of one owner where only its bytes are limited: all of them are looked at when one begins."""
RESERVATION_STEP_BYTES = 16 * 1024 * 1024
"""How much more an upload of unknown length reserves than it has received, where there is room."""


class QuotaExceeded(InsufficientStorage):
    """507 (RFC 4918, 11.5) because of the owner's quota, while the store has space."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of each owner, 0 for none: `max_bytes` of files and reservations, `max_uploads` unfinished uploads."""

    max_bytes: int = 0
    max_uploads: int = 0

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return bool(self.max_bytes or self.max_uploads)

    @property
    def most_uploads(self) -> int:
        """How many unfinished uploads an owner may have in any case."""
        return self.max_uploads or MAX_RESERVATIONS

    def applies_to(self, owner: str) -> bool:
        """Whether anything is limited for that subject: what has no owner is not counted."""
        return bool(owner) and self.is_set

    def check_bytes(self, total: int) -> None:
        """Raise QuotaExceeded where the owner would have that many bytes."""
        if self.max_bytes and total > self.max_bytes:
            metrics.QUOTA_REFUSALS.labels("bytes").inc()
            raise QuotaExceeded(f"this does not fit into your quota of {self.max_bytes} bytes")

    def check_uploads(self, count: int) -> None:
        """Raise TooManyRequests where the owner would have that many unfinished uploads."""
        if count > self.most_uploads:
            metrics.QUOTA_REFUSALS.labels("uploads").inc()
            raise TooManyRequests(f"you have {self.most_uploads} unfinished uploads, the most allowed", RETRY_LATER)


NO_QUOTA = Quota()
