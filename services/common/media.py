"""Media as values: names and their rules, and what is known of a stored file. No I/O; it knows no store and no HTTP."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.common.errors import BadRequest

MAX_SEGMENT_BYTES = 255
"""Bytes of UTF-8 in one segment: what common file systems take."""
MAX_FOLDER_BYTES = 1024
"""Bytes of UTF-8 in a folder."""

# Bidirectional controls can make "exe.mp4" out of "4pm.exe"; zero-width characters make two names look like one.
_INVISIBLE_CHARACTERS = frozenset("\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff") | {
    chr(point) for start, end in ((0x202A, 0x202E), (0x2066, 0x2069)) for point in range(start, end + 1)
}
# Cc control, Cs lone surrogate (no UTF-8 has it), Zl and Zp line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class MediaName:
    """Where a file stands: unique over the whole store. Make one with `media_name`, which holds the rules."""

    folder: str
    filename: str


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """One stored file.

    `id` stays when the file is replaced, `file` names the stored bytes and changes with them. `length` in bytes, `sha256` in
    lower-case hex, `uploaded_at` in UTC.
    """

    id: str
    file_id: str
    folder: str
    filename: str
    length: int
    content_type: str
    sha256: str
    uploaded_at: datetime

    @property
    def etag(self) -> str:
        """A strong entity tag with its quotes (RFC 9110, 8.8.3): equal only for equal bytes."""
        return f'"sha256-{self.sha256}"'

    def to_public_dict(self) -> dict[str, Any]:
        """The members that clients see."""
        return {
            "id": self.id,
            "folder": self.folder,
            "filename": self.filename,
            "length": self.length,
            "content_type": self.content_type,
            "sha256": self.sha256,
            "etag": self.etag,
            "uploaded_at": self.uploaded_at.isoformat(timespec="milliseconds"),
        }


def validate_media_name(folder: str, filename: str) -> MediaName:
    """A checked name in NFC. Raises BadRequest that names the fault."""
    return MediaName(validate_folder(folder), validate_segment(filename, "filename"))


def validate_folder(folder: str) -> str:
    """Empty, or segments joined by `/` without a leading or trailing one, in NFC. Raises BadRequest."""
    if not folder:
        return ""
    checked = "/".join(validate_segment(segment, "folder") for segment in folder.split("/"))
    if len(checked.encode()) > MAX_FOLDER_BYTES:
        raise BadRequest(f"folder is longer than {MAX_FOLDER_BYTES} bytes")
    return checked


def validate_segment(segment: str, field_name: str) -> str:
    """One path segment in NFC: 1 to 255 bytes, nothing invisible, nothing that leads elsewhere. Raises BadRequest."""
    if not segment:
        raise BadRequest(f"{field_name} is empty" if field_name == "filename" else f"{field_name} has an empty segment")
    if len(segment) > MAX_SEGMENT_BYTES:  # before normalising, which is not free
        raise BadRequest(f"{field_name} is longer than {MAX_SEGMENT_BYTES} bytes")
    if segment in {".", ".."}:
        raise BadRequest(f"{field_name} may not be . or ..")
    for character in segment:
        if character in "/\\":
            raise BadRequest(f"{field_name} may not contain / or \\")
        if character in _INVISIBLE_CHARACTERS or unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise BadRequest(f"{field_name} contains the invisible or control character U+{ord(character):04X}")
    normal = unicodedata.normalize("NFC", segment)
    if len(normal.encode()) > MAX_SEGMENT_BYTES:
        raise BadRequest(f"{field_name} is longer than {MAX_SEGMENT_BYTES} bytes")
    return normal
