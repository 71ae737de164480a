"""Media as values: file names with their rules, and the metadata of a stored file. Pure."""

import json
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.common.errors import BadRequest
from services.common.invisible import drop_direction_marks, find_invisible

MAX_SEGMENT_BYTES = 255
"""Bytes of UTF-8 in one path segment: the limit of common file systems."""
MAX_FOLDER_BYTES = 1024
"""Bytes of UTF-8 in a folder."""
NO_METADATA = "{}"
"""The metadata of a file for which none was sent."""


@dataclass(frozen=True, slots=True)
class MediaName:
    """A file's folder and filename, unique in the whole store. Create one with `validate_media_name`, which holds the rules."""

    folder: str
    filename: str


@dataclass(frozen=True, slots=True)
class FolderFilter:
    """A set of folders, named one by one (`exact`) or each with all that is below it (`trees`). Empty, it has none."""

    exact: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()

    def allows(self, folder: str) -> bool:
        """Return whether a normalised folder is in the set."""
        return folder in self.exact or folder in self.trees or any(folder.startswith(f"{tree}/") for tree in self.trees)


def sha256_etag(sha256: str) -> str:
    """A strong entity tag with its quotes, made from a SHA-256 in lower-case hex (RFC 9110, 8.8.3): equal only for equal bytes."""
    return f'"sha256-{sha256}"'


@dataclass(frozen=True, slots=True)
class Poster:
    """A small picture of a file: its bytes, their media type, and their SHA-256 in lower-case hex."""

    data: bytes
    content_type: str
    sha256: str

    @property
    def etag(self) -> str:
        """The strong entity tag with its quotes."""
        return sha256_etag(self.sha256)


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Metadata of one stored file.

    `id` stays when the file is replaced; `file_id` identifies the stored bytes and changes with them. `length` in bytes,
    `sha256` in lower-case hex or None where the store has none, `uploaded_at` in UTC. `stored_etag` is the entity tag as the
    store keeps it, with its quotes; None for a file that was stored without one: its tag is derived from `sha256`. One of the
    two is always present. `metadata_json` is what its uploader says of it, one JSON object as text. `media_facts_json` is what the
    container says, one JSON object or `null` as text; None where the file was not examined. `poster_etag` is the entity tag of its
    poster, None where it has none. `owner` is the subject that uploaded this version, empty where there is none: it was stored
    without authentication, anonymously, or before files had owners.
    `revision` counts the changes of the name: of two descriptions of one name the one with the greater revision is the newer. It
    never falls, and begins anew neither with a replacement nor with a deletion.
    """

    id: str
    file_id: str
    folder: str
    filename: str
    length: int
    content_type: str
    sha256: str | None
    uploaded_at: datetime
    stored_etag: str | None = None
    metadata_json: str = NO_METADATA
    revision: int = 0
    media_facts_json: str | None = None
    poster_etag: str | None = None
    owner: str = ""

    def __post_init__(self) -> None:
        if self.stored_etag is None and self.sha256 is None:
            raise ValueError(f"file {self.file_id} has neither an entity tag nor a SHA-256")

    @property
    def etag(self) -> str:
        """The strong entity tag with its quotes (RFC 9110, 8.8.3)."""
        return self.stored_etag or sha256_etag(self.sha256 or "")

    def to_public_dict(self) -> dict[str, Any]:
        """The members that clients receive as JSON. `sha256`, `media_facts`, `poster` and `owner` may be null."""
        return {
            "id": self.id,
            "folder": self.folder,
            "filename": self.filename,
            "length": self.length,
            "content_type": self.content_type,
            "sha256": self.sha256,
            "etag": self.etag,
            "uploaded_at": self.uploaded_at.isoformat(timespec="milliseconds"),
            "metadata": json.loads(self.metadata_json),
            "media_facts": None if self.media_facts_json is None else json.loads(self.media_facts_json),
            "poster": self.poster_etag,
            "revision": self.revision,
            "owner": self.owner or None,
        }


def normalize_text(text: str) -> str:
    """Return the text as names are compared: in NFC, without the direction marks U+200E, U+200F and U+061C."""
    return unicodedata.normalize("NFC", drop_direction_marks(text))


def validate_media_name(folder: str, filename: str) -> MediaName:
    """Return the normalised name. Raises BadRequest, whose detail says what is wrong."""
    return MediaName(validate_folder(folder), validate_segment(filename, "filename"))


def validate_folder(folder: str) -> str:
    """Return a normalised folder: empty, or segments joined by `/` without a leading or trailing slash. Raises BadRequest."""
    if not folder:
        return ""
    checked = "/".join(validate_segment(segment, "folder") for segment in folder.split("/"))
    if len(checked.encode()) > MAX_FOLDER_BYTES:
        raise BadRequest(f"folder is longer than {MAX_FOLDER_BYTES} bytes")
    return checked


def validate_segment(segment: str, field_name: str) -> str:
    """Return one normalised path segment: 1 to 255 bytes, no invisible characters, no path traversal. Raises BadRequest.

    A bidirectional control can make "exe.mp4" out of "4pm.exe", and an invisible character two names that look like one.
    """
    if len(segment) > MAX_SEGMENT_BYTES:  # before normalising, which costs time
        raise BadRequest(f"{field_name} is longer than {MAX_SEGMENT_BYTES} bytes")
    normal = normalize_text(segment)
    if not normal:
        raise BadRequest(f"{field_name} is empty" if field_name == "filename" else f"{field_name} has an empty segment")
    if normal in {".", ".."}:
        raise BadRequest(f"{field_name} may not be . or ..")
    if "/" in normal or "\\" in normal:
        raise BadRequest(f"{field_name} may not contain / or \\")
    if (character := find_invisible(normal)) is not None:
        raise BadRequest(f"{field_name} contains the invisible or control character U+{ord(character):04X}")
    if len(normal.encode()) > MAX_SEGMENT_BYTES:
        raise BadRequest(f"{field_name} is longer than {MAX_SEGMENT_BYTES} bytes")
    return normal
