"""Whether a request's bytes fit to the upload they are meant for. Pure: values in, a verdict out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import BadRequest, Conflict, Gone, NotUnique, TooLarge
from services.common.store.port import Announcement, Ended, Open
from services.upload.digests import Check


@dataclass(frozen=True, slots=True)
class Received:
    """What is durable now; `stored` when that was the whole file, `sha256` then too."""

    offset: int
    expires_at: datetime | None
    stored: Announcement | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """What a request's head says of the bytes that follow. `length` is the file's, where it is told with them."""

    offset: int
    length: int | None
    content_length: int | None
    checks: Sequence[Check]

    def check(self, state: Open, most: int) -> None:
        """Raises Conflict with the true offset, TooLarge past the end or `most`, BadRequest for a length that cannot be."""
        if self.offset != state.offset:
            raise _elsewhere(state.offset)
        if self.length is not None and state.length not in {None, self.length}:
            raise BadRequest("Upload-Length does not change")
        length = state.length if self.length is None else self.length
        if length is not None and length < state.offset:
            raise BadRequest("Upload-Length is less than what is here")
        if length is not None and length > most:
            raise TooLarge(f"the file is larger than {most} bytes")
        if state.offset + (self.content_length or 0) > (most if length is None else length):
            raise TooLarge("the bytes go past the end of the upload")

    def again(self, found: Open | Ended) -> Received:
        """The answer to a request whose upload is stored already: the first answer may have been lost."""
        if isinstance(found, Open):
            raise _elsewhere(found.offset)
        if self.offset != found.length or self.content_length:
            raise _elsewhere(found.length)
        return Received(found.length, found.expires_at, None, found.sha256)


def lost(end: Ended) -> Gone:
    """What is said of an upload that lost its name to another file."""
    name = end.name
    return Gone(NotUnique(name.folder, name.filename).detail if name else "this upload is lost")


def _elsewhere(offset: int) -> Conflict:
    return Conflict(f"the upload is at offset {offset}", {"upload-offset": str(offset)})
