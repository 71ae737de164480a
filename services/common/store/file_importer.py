"""The importing side of the store's port: store a file of another store with everything that is stored about it.

The guarantees are written here; every implementation is tested against them by the same contract tests.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from services.common.errors import Conflict
from services.common.media import MediaInfo, Poster

ImportOutcome = Literal["imported", "unchanged", "kept"]
"""`unchanged`: the same version is current here. `kept`: a version that is as new or newer is current here, and stays."""

UNFINISHED_IMPORT_TTL_SECONDS = 86400.0
"""How long the blocks of an interrupted import are kept. One that is repeated in this time continues at once."""
IMPORT_BATCH_BLOCKS = 8
"""Blocks written by one call (2 MiB)."""

ANOTHER_HAS_NAME = "another file has this name, or what is left of one: an unfinished upload, a deleted version"
ANOTHER_HAS_ID = "another name has the id of this file"
FILE_ID_IN_USE = "another file has the file id of this one"
TO_BE_DELETED = (
    "this version was deleted, or an interrupted copy of it has expired, and its bytes are still to be deleted"
)
BYTES_LEFT_BEHIND = "bytes with the file id of this one are left without a file, and are still to be deleted"
CHANGED_MEANWHILE = "the file was changed meanwhile, or another process copies it too"


class FileImporter(Protocol):
    """Stores files as another store describes them. Their posters are stored by `import_poster`, before them."""

    block_size: int
    """Bytes of every block but the last one of a file."""

    async def import_file(self, info: MediaInfo, blocks: AsyncIterator[bytes]) -> ImportOutcome:
        """Make a file current with all that `info` says: both ids, the entity tag, the metadata, the owner, the time and the
        revision.

        `blocks` are those of the file, in order. They are read only where the file is imported, and to their end before it becomes
        visible in one step: an exception of theirs passes unchanged and nothing is visible. What an outcome says is durable. The
        call may be repeated, also after it was interrupted at any point. No event is published.

        A revision never falls here: it is greater than `info` says where the name has had that revision here before.

        Raises:
            BadRequest: an id has not the form of this store's.
            Conflict: another file has the name or one of the ids here; a version with this file id was deleted here, or left by an
                import, and its blocks are still to be deleted; or the name was changed here meanwhile. The details are the texts
                above.
            InsufficientStorage: there is no space left.
            ServiceUnavailable: the outcome is unknown.

        """

    async def import_poster(self, info: MediaInfo, poster: Poster) -> None:
        """Store the poster of a version that is imported next. Raises BadRequest and ServiceUnavailable."""


def compare_versions(current: MediaInfo | None, incoming: MediaInfo) -> Literal["unchanged", "kept"] | None:
    """Decide what happens to an incoming version where `current` has its name; None: it is imported.

    Of two versions of one file the one with the greater revision is the newer; where both stores have changed it equally often,
    what is here stays. Raises Conflict where they are two files.
    """
    if current is None:
        return None
    if current.id != incoming.id:
        raise Conflict(ANOTHER_HAS_NAME)
    if current.file_id == incoming.file_id:
        if _describe(current) != _describe(incoming):
            raise Conflict(FILE_ID_IN_USE)
        return "unchanged"
    return None if current.revision < incoming.revision else "kept"


def next_revision(incoming: int, known: int) -> int:
    """The revision of an imported version where `known` is the greatest that the name may have had, 0 for none."""
    return max(incoming, known + 1) if known else incoming


def _describe(info: MediaInfo) -> tuple[object, ...]:
    return (
        info.length,
        info.content_type,
        info.sha256,
        info.etag,
        info.metadata_json,
        info.media_facts_json,
        info.uploaded_at,
        info.owner,
    )
