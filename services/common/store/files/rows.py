"""Rows as values of the port. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from services.common.media import MediaInfo, MediaName
from services.common.store.files.clock import StoreClock, from_milliseconds
from services.common.store.files.schema import VERSION_FIELDS
from services.common.store.upload_ids import format_upload_id
from services.common.store.upload_store import FinishedUpload, InProgressUpload, OutboxEvent, PreviousName, UploadHandle

Row = Mapping[Any, Any]
"""A row by the names of its columns."""


class FilesUploadKey(NamedTuple):
    """The ids behind a handle: of the row of its name, of the upload, and of the file."""

    media_id: str
    record_id: str
    file_id: str


def make_handle(
    key: FilesUploadKey, name: MediaName | None, fencing_token: int, secret: str, owner: str = ""
) -> UploadHandle:
    """Make the handle of an upload. Its id names the row of its name and the upload, its store key the file."""
    upload_id = format_upload_id(key.media_id, key.record_id, secret)
    return UploadHandle(upload_id, name, fencing_token, key.file_id, owner)


def upload_key(upload: UploadHandle) -> FilesUploadKey:
    """Return the ids behind a handle that `make_handle` has made."""
    media_id, record_id = upload.upload_id.split("-")[:2]
    return FilesUploadKey(media_id, record_id, upload.store_key)


def fold(text: str) -> str:
    """The text as a search compares it: each character without its case, and never as more than one character."""
    return "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


def encode_metadata(metadata: Mapping[str, str]) -> str:
    """The metadata of an upload as text: without any character that a database refuses."""
    return json.dumps(dict(metadata), ensure_ascii=True, separators=(",", ":"))


def encode_owner(owner: str) -> bytes | None:
    """A subject as it is stored: a database need not accept every character of a text."""
    return owner.encode() if owner else None


def decode_owner(stored: bytes | None) -> str:
    """The subject, empty where there is none."""
    return bytes(stored).decode() if stored is not None else ""


def decode_name(row: Row) -> MediaName | None:
    """The name of a row of `media`, None where it has none."""
    return None if row["folder"] is None else MediaName(row["folder"], row["filename"])


def decode_version(file_identity: str, name: Row, version: Row, revision: int) -> MediaInfo:
    """A version: the columns of `VERSION_FIELDS` in `version`, under the name in `name`."""
    return MediaInfo(
        id=file_identity,
        file_id=version["file_id"],
        folder=name["folder"],
        filename=name["filename"],
        length=version["length"],
        content_type=version["content_type"],
        sha256=version["sha256"],
        uploaded_at=from_milliseconds(version["uploaded_at"]),
        stored_etag=version["etag"],
        metadata_json=version["metadata"],
        revision=revision,
        media_facts_json=version["media_facts"],
        poster_etag=version["poster"],
        owner=decode_owner(version["owner"]),
    )


def decode_media_info(row: Row) -> MediaInfo:
    """The current file of a row of `media` that has one."""
    return decode_version(identity_of(row), row, row, row["revision"])


def identity_of(row: Row) -> str:
    """The id of the file of a row of `media`, or that of the next one."""
    identity: str = row["identity"] or row["id"]
    return identity


def version_of(row: Row) -> dict[str, Any]:
    """The columns that describe a version, out of a row that has them."""
    return {field: row[field] for field in VERSION_FIELDS}


def decode_event(name: Row, row: Row, read_at: float) -> OutboxEvent:
    """One row of `outbox`."""
    info = decode_version(row.get("identity") or row["media_id"], name, row, row["revision"])
    previous = None
    if text := row.get("previous"):
        folder, filename, revision = json.loads(text)
        previous = PreviousName(MediaName(folder, filename), revision)
    return OutboxEvent(
        row["id"],
        row["type"],
        info,
        read_at,
        name_key=row["media_id"],
        previous=previous,
        previous_owner=decode_owner(row.get("previous_owner")),
    )


def with_earlier(name: Row, rows: Iterable[Row], event_id: str, read_at: float) -> OutboxEvent | None:
    """The event with that id, with those before it that are unpublished or not relayed; None where the outbox has it not."""
    earlier: list[OutboxEvent] = []
    to_relay: list[OutboxEvent] = []
    for row in rows:
        event = decode_event(name, row, read_at)
        if row["unrelayed"]:
            to_relay.append(event)
        if row["id"] == event_id:
            return replace(event, earlier=tuple(earlier), to_relay=tuple(to_relay))
        if not row["told"]:
            earlier.append(event)
    return None


def decode_in_progress(row: Row, clock: StoreClock, *, tail: bytes = b"", write_in_progress: bool) -> InProgressUpload:
    """The state of an unfinished upload, out of a row of `uploads` with the name."""
    return InProgressUpload(
        name=decode_name(row),
        offset=row["offset"],
        tail=tail,
        length=row["length"],
        metadata=json.loads(row["metadata"]),
        expires_at=clock.to_datetime(row["expires_at"]),
        write_in_progress=write_in_progress,
        owner=decode_owner(row["owner"]),
    )


def decode_finished(row: Row, clock: StoreClock) -> FinishedUpload:
    """The outcome of an upload, out of a row of `finished_uploads` with the name and `current_file`."""
    outcome = row["outcome"]
    if outcome == "stored" and row["current_file"] != row["file_id"]:
        outcome = "removed"
    return FinishedUpload(
        outcome=outcome,
        name=decode_name(row),
        length=row["length"],
        etag=row["etag"],
        sha256=row["sha256"],
        metadata=json.loads(row["metadata"]),
        expires_at=clock.to_datetime(row["until"]),
        owner=decode_owner(row["owner"]),
    )
