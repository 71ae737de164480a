"""The limits and sizes that every store keeps, whatever it is built on."""

from datetime import timedelta

BLOCK_SIZE = 255 * 1024
"""Bytes of a block, GridFS's default: so every other tool can read the chunks, and the planner and the writer work alike on every
store. Eight blocks are a whole number of pages."""
MAX_UPLOADS_PER_NAME = 64
"""Unfinished uploads of one name."""
MAX_IDLE_UPLOADS_PER_CLIENT = 16
"""Unfinished uploads of one name and one client that no writer holds."""
MAX_FACTS_BYTES = 128 * 1024
"""Bytes of the metadata of all unfinished uploads of one name: in MongoDB every change of the document costs a copy of them."""
MAX_TOMBSTONES = 10_000
"""Versions of one name that wait for deletion. Beyond it new uploads of the name are refused."""
MAX_FINISHED_UPLOADS = 64
"""Outcomes of uploads of one name that are kept: the newest."""
MAX_OUTBOX_EVENTS = 64
"""Unpublished events of one name. Beyond it the oldest become one `socket.resync`: clients then ask for the state."""
MAX_UNRELAYED_EVENTS = 64
"""Events of one name without deliveries, where events are relayed. Beyond it a commit is refused."""
SEARCH_SCAN_LIMIT = 10_000
"""Names that one page of a search examines: about 10 ms of the database's time."""
ORPHAN_SCAN_FILES = 1000
"""Files examined by one call of `delete_orphans`."""
MIN_ORPHAN_AGE = timedelta(hours=24)
"""Far longer than any write takes."""
MAX_REVOCATIONS = 100_000
"""Revocations read at once, at most: 10 MB. Beyond that the secret should be replaced."""
REVISION_BUCKETS = 1 << 16
"""Revision floors that are kept: at most some 5 MiB."""
DUE_PAGE_SIZE = 100
"""Names that the garbage collector fetches by one query."""
NOT_RESTORABLE = "nothing can be restored here: no file of this name was deleted, or it was too long ago"
"""The detail of the error for a file that was deleted too long ago: nothing is left that would tell it from one that never was."""
RESOLVE_TIMEOUT_SECONDS = 6.0
"""How long an unknown outcome of a commit or a deletion is resolved before the answer is 503."""
ATTEMPT_TIMEOUT_SECONDS = 4.0
"""Time limit of one attempt, shorter than that of other operations, so that the outcome is resolved before the client gets 503."""

RETRY_LATER = {"retry-after": "30"}
"""Response fields of a refusal that ends with the uploads of others: seconds, about what a garbage collection takes."""
