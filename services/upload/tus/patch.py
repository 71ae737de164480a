"""Whether the bytes of a PATCH fit the upload they are sent to, and what is answered where it has finished already. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import AlreadyExists, BadRequest, Conflict, ContentTooLarge, Gone
from services.common.media import MediaName
from services.common.store.upload_store import FinishedUpload, InProgressUpload, OutboxEvent
from services.upload.digests import DigestVerifier


@dataclass(frozen=True, slots=True)
class PatchResult:
    """What is durable now: `offset` in bytes.

    With the last byte the file is stored: then `event` is the one to publish, None where an earlier request has stored it.
    `etag` and `sha256` are those of the stored file.
    """

    offset: int
    expires_at: datetime | None
    event: OutboxEvent | None = None
    etag: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """What the request's head says. `length` is the file's, where it is sent with these bytes; lengths and offset in bytes."""

    offset: int
    length: int | None
    content_length: int | None
    verifiers: Sequence[DigestVerifier]

    def validate(self, state: InProgressUpload, max_size: int) -> None:
        """Check that the bytes fit the upload.

        Raises Conflict with the actual offset, ContentTooLarge beyond the length or `max_size`, BadRequest for a wrong length.
        """
        if self.offset != state.offset:
            raise _offset_mismatch(state.offset)
        if self.length is not None and state.length not in {None, self.length}:
            raise BadRequest("Upload-Length must not change")
        length = state.length if self.length is None else self.length
        if length is not None and length < state.offset:
            raise BadRequest("Upload-Length is less than the current offset")
        if length is not None and length > max_size:
            raise ContentTooLarge(f"the file is larger than {max_size} bytes")
        if state.offset + (self.content_length or 0) > (max_size if length is None else length):
            raise ContentTooLarge("the body exceeds the length of the upload")

    def replay_result(self, state: InProgressUpload | FinishedUpload) -> PatchResult:
        """Return the result of a request that has stored the file already: the client may have missed its response."""
        if isinstance(state, InProgressUpload):
            raise _offset_mismatch(state.offset)
        if self.offset != state.length or self.content_length:
            raise _offset_mismatch(state.length)
        return PatchResult(state.length, state.expires_at, None, state.etag, state.sha256)


def lost_upload_error(name: MediaName | None) -> Gone:
    """The error for an upload whose name was taken by another file before its commit."""
    return Gone(AlreadyExists(name.folder, name.filename).detail if name else "this upload was superseded")


def _offset_mismatch(offset: int) -> Conflict:
    return Conflict(f"the upload is at offset {offset}", {"upload-offset": str(offset)})
