"""Whether a request's bytes fit to the upload they are meant for. Pure: values in, a verdict out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import AlreadyExists, BadRequest, Conflict, ContentTooLarge, Gone
from services.common.store.upload_store import FinishedUpload, InProgressUpload, OutboxEvent
from services.upload.digests import DigestVerifier


@dataclass(frozen=True, slots=True)
class PatchResult:
    """What is durable now; `stored` when that was the whole file, `sha256` then too."""

    offset: int
    expires_at: datetime | None
    event: OutboxEvent | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """What a request's head says of the bytes that follow. `length` is the file's, where it is told with them."""

    offset: int
    length: int | None
    content_length: int | None
    verifiers: Sequence[DigestVerifier]

    def validate(self, state: InProgressUpload, max_size: int) -> None:
        """Raises Conflict with the true offset, TooLarge past the end or `most`, BadRequest for a length that cannot be."""
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
        """The answer to a request whose upload is stored already: the first answer may have been lost."""
        if isinstance(state, InProgressUpload):
            raise _offset_mismatch(state.offset)
        if self.offset != state.length or self.content_length:
            raise _offset_mismatch(state.length)
        return PatchResult(state.length, state.expires_at, None, state.sha256)


def lost_upload_error(finished: FinishedUpload) -> Gone:
    """What is said of an upload that lost its name to another file."""
    name = finished.name
    return Gone(AlreadyExists(name.folder, name.filename).detail if name else "this upload was superseded")


def _offset_mismatch(offset: int) -> Conflict:
    return Conflict(f"the upload is at offset {offset}", {"upload-offset": str(offset)})
