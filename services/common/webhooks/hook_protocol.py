"""What the upload hook is asked and what it may answer. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from services.common.errors import BadGateway, BadRequest, ContentTooLarge, Forbidden, UnsupportedMediaType
from services.common.media import NO_METADATA, MediaName, validate_folder, validate_media_name
from services.common.uploads.file_metadata import encode_file_metadata
from services.common.uploads.policy import UploadPolicy

EVENT_TYPE = "upload.creating"
MAX_DETAIL_LENGTH = 500
MAX_CONTENT_TYPES = 64
_DENIED = "the upload was refused"
_ANSWER_KEYS = frozenset({"allow", "detail", "folder", "filename", "metadata", "max_bytes", "content_types"})


@dataclass(frozen=True, slots=True)
class HookQuestion:
    """An upload that is about to begin. `length` in bytes.

    None is not known yet: a form names its file in its body, and a length may be deferred.
    """

    protocol: str
    folder: str | None
    filename: str | None
    length: int | None
    content_type: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    subject: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is sent as `data`."""
        return {
            "protocol": self.protocol,
            "folder": self.folder,
            "filename": self.filename,
            "length": self.length,
            "content_type": self.content_type,
            "metadata": dict(self.metadata),
            "subject": self.subject,
        }


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """That an upload may begin, and what is changed of it. The default changes nothing.

    `max_bytes` and `content_types` limit it further than the settings do; `metadata` joins the file's and prevails over it.
    """

    folder: str | None = None
    filename: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int | None = None
    content_types: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether the file gets another name than its uploader has asked for."""
        return self.folder is not None or self.filename is not None

    def place(self, name: MediaName) -> MediaName:
        """Return the name of the file. Raises BadGateway where that is not a valid one."""
        if not self.moves:
            return name
        folder = name.folder if self.folder is None else self.folder
        try:
            return validate_media_name(folder, name.filename if self.filename is None else self.filename)
        except BadRequest:
            raise _fault("it gives a name that is not valid") from None

    def limit(self, policy: UploadPolicy) -> UploadPolicy:
        """Return the policy with the limit of the hook."""
        if self.max_bytes is None:
            return policy
        return replace(policy, max_size=min(policy.max_size, self.max_bytes))

    def check_media_type(self, content_type: str) -> None:
        """Raises UnsupportedMediaType where the hook does not accept the type."""
        media_type = content_type.partition(";")[0].strip().lower()
        if self.content_types and not any(fnmatchcase(media_type, pattern.lower()) for pattern in self.content_types):
            raise UnsupportedMediaType(f"media type {media_type} is not allowed")

    def join_metadata(self, metadata_json: str) -> str:
        """Return the metadata of a file, as stored, with that of the hook."""
        if not self.metadata:
            return metadata_json
        own = {} if metadata_json == NO_METADATA else json.loads(metadata_json)
        try:
            return encode_file_metadata({**own, **self.metadata})
        except ContentTooLarge:
            raise _fault("its metadata and the file's are too much together") from None

    def to_upload_metadata(self) -> dict[str, str]:
        """Return what is stored with an unfinished upload, so that any replica continues it in the same way."""
        if self == HookAnswer():
            return {}
        kept = {"moved": self.moves, "metadata": dict(self.metadata), "max_bytes": self.max_bytes}
        return {"hook": json.dumps(kept, ensure_ascii=False, separators=(",", ":"))}


ALLOWED = HookAnswer()


@dataclass(frozen=True, slots=True)
class StoredHookAnswer:
    """What is stored of an answer with an unfinished upload."""

    moved: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int | None = None

    @classmethod
    def of(cls, upload_metadata: Mapping[str, str]) -> "StoredHookAnswer":
        """Return it out of the metadata of an unfinished upload."""
        text = upload_metadata.get("hook")
        return cls(**json.loads(text)) if text else _NOTHING_STORED

    def limit(self, max_size: int) -> int:
        """Return the smaller limit, in bytes."""
        return max_size if self.max_bytes is None else min(max_size, self.max_bytes)

    def join_metadata(self, metadata_json: str) -> str:
        """Return the metadata of a file, as stored, with that of the hook."""
        return HookAnswer(metadata=self.metadata).join_metadata(metadata_json)


_NOTHING_STORED = StoredHookAnswer()


def parse_answer(body: bytes) -> HookAnswer:
    """Return the answer in the body of a 200.

    Raises:
        ValueError: where it is not a JSON object: no answer at all.
        Forbidden: where it denies, with the text for the client.
        BadGateway: where it is an answer with a fault, which is named.

    """
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("the answer is not a JSON object")  # noqa: TRY004  # a fault of the answer
    if unknown := sorted(value.keys() - _ANSWER_KEYS):
        raise _fault(f"its answer has an unknown member {unknown[0][:40]!r}")
    allow = value.get("allow")
    if not isinstance(allow, bool):
        raise _fault("allow is neither true nor false")
    detail = _optional(value, "detail", str)
    if not allow:
        text = "".join(character if character.isprintable() else " " for character in detail or "").strip()
        raise Forbidden(text[:MAX_DETAIL_LENGTH] or _DENIED)
    folder = _optional(value, "folder", str)
    try:
        folder = None if folder is None else validate_folder(folder)
    except BadRequest:
        raise _fault("its folder is not a valid one") from None
    max_bytes = _optional(value, "max_bytes", int)
    if isinstance(max_bytes, bool) or (max_bytes is not None and max_bytes < 0):
        raise _fault("max_bytes is not a number of bytes")
    return HookAnswer(
        folder,
        _optional(value, "filename", str),
        _text_values(value),
        max_bytes,
        _content_types(value),
    )


def _fault(reason: str) -> BadGateway:
    return BadGateway(f"the upload hook has answered with a fault: {reason}")


def _optional(value: Mapping[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if found is not None and not isinstance(found, kind):
        raise _fault(f"{name} is of another type")
    return found


def _text_values(value: Mapping[str, Any]) -> dict[str, str]:
    metadata: dict[str, str] = _optional(value, "metadata", dict) or {}
    if not all(isinstance(text, str) for text in metadata.values()):
        raise _fault("metadata has a value that is not text")
    try:
        encode_file_metadata(metadata)
    except ContentTooLarge:
        raise _fault("metadata is too large") from None
    return metadata


def _content_types(value: Mapping[str, Any]) -> tuple[str, ...]:
    listed = _optional(value, "content_types", list) or []
    if len(listed) > MAX_CONTENT_TYPES or not all(isinstance(text, str) and text for text in listed):
        raise _fault(f"content_types is not a list of at most {MAX_CONTENT_TYPES} media types")
    return tuple(listed)
