"""Which unfinished uploads of one name there is room for. Pure.

What others have left unfinished must not refuse a name to anyone for long, nor make its requests slow. So uploads that no writer
holds are evicted where there are too many: first those of the client that has the most of them, of these the ones without a byte,
of these the oldest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.store.limits import MAX_FACTS_BYTES, MAX_IDLE_UPLOADS_PER_CLIENT, MAX_UPLOADS_PER_NAME


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """What admission looks at: `idle` where it outlives its request and no writer holds it; `active_at`: its last byte."""

    id: str
    client: str
    idle: bool
    has_bytes: bool
    active_at: int
    metadata_bytes: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether there is room for one more upload, and which one is evicted for it."""

    fits: bool
    evicted: str | None = None


def admit_upload(
    uploads: Sequence[UnfinishedUpload], client: str, metadata_bytes: int, *, resumable: bool
) -> Admission:
    """Decide about an upload of `client` whose metadata has that many bytes.

    A `resumable` upload stays when its request has ended: it evicts uploads of other clients only where they have more than its
    own, and of its own client those without a byte.
    """
    idle = [upload for upload in uploads if upload.idle]
    held = Counter(upload.client for upload in idle)
    total_bytes = sum(upload.metadata_bytes for upload in uploads)
    too_many = len(uploads) >= MAX_UPLOADS_PER_NAME
    too_large = total_bytes + metadata_bytes > MAX_FACTS_BYTES
    own_full = resumable and held[client] >= MAX_IDLE_UPLOADS_PER_CLIENT
    if not (too_many or too_large or own_full):
        return Admission(fits=True)
    if own_full:
        candidates = [upload for upload in idle if upload.client == client and not upload.has_bytes]
    elif resumable:
        candidates = [upload for upload in idle if held[upload.client] > held[client]]
    else:
        candidates = idle
    if not candidates:
        return Admission(fits=False)

    def order(upload: UnfinishedUpload) -> tuple[int, int, bool, int, str]:
        size = -upload.metadata_bytes if too_large else 0
        return size, -held[upload.client], upload.has_bytes, upload.active_at, upload.id

    evicted = min(candidates, key=order)
    freed = evicted.metadata_bytes if too_large else 0
    if total_bytes - freed + metadata_bytes > MAX_FACTS_BYTES:
        return Admission(fits=False)
    return Admission(fits=True, evicted=evicted.id)
