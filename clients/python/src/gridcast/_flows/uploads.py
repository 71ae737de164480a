"""Flow of an upload: one PUT for what is small, tus 1.0.0 for the rest, resumable over requests and processes."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gridcast._flows.effects import ByteSource, Flow, HttpRequest, HttpResponse, call
from gridcast._flows.remote_path import file_target, split_path
from gridcast._flows.responses import error_of, format_repr_digest, parse_file_info, parse_json, parse_sha256
from gridcast._flows.retries import FlowContext, send
from gridcast._flows.single_requests import get_info
from gridcast._flows.tus_transfer import TUS_HEADERS, PartReader, TusTransfer
from gridcast.errors import DigestMismatch, FileMissing, InvalidRequest, NameConflict, RequestError, UnexpectedResponse
from gridcast.values import FileInfo, ProgressCallback, TransferProgress, TransferState

SMALL_FILE_BYTES = 16 * 1024 * 1024
"""Up to this size a file is sent with one PUT, from memory."""
PART_BYTES = 8 * 255 * 1024
"""Bytes of one PATCH: what an interruption makes a client send again is never more.

Whole blocks of the store: it would keep the rest behind them by three more writes for each part.
"""
COMMIT_TIMEOUT_SECONDS = 920.0
"""The gateway waits 900 s for a commit: the service may read the file back first."""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What the caller wants beside the bytes."""

    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    sid: str | None = None
    part_bytes: int = PART_BYTES


@dataclass(frozen=True, slots=True)
class SavedUpload:
    """An unfinished upload: where it is, and of which bytes."""

    address: str
    path: str
    size: int
    fingerprint: str


class UploadState(Protocol):
    """Remembers an unfinished upload over process ends."""

    def load(self) -> SavedUpload | None:
        """Return what was saved; None where there is nothing that can be used."""

    def save(self, upload: SavedUpload) -> None:
        """Save, so that a process that is killed at any moment leaves the old or the new state."""

    def clear(self) -> None:
        """Forget: the upload is over."""


class UploadFlow:
    """One upload."""

    def __init__(
        self,
        context: FlowContext,
        path: str,
        source: ByteSource,
        options: UploadOptions,
        *,
        state: UploadState | None,
        progress: ProgressCallback | None,
    ) -> None:
        split_path(path)
        if options.part_bytes < 1:
            raise InvalidRequest("a part has at least one byte")
        self._context = context
        self._path = path
        self._source = source
        self._options = options
        self._state = state
        self._progress = progress
        self._reader = PartReader(source)

    def run(self) -> Flow[FileInfo]:
        """Return the description of the stored file."""
        size = self._source.size
        if self._options.replace and self._options.metadata:
            raise InvalidRequest("a file that replaces another one has no metadata")
        if not self._options.metadata and (size is None or size <= SMALL_FILE_BYTES):
            content = yield from self._reader.peek(SMALL_FILE_BYTES + 1)
            if len(content) <= SMALL_FILE_BYTES:
                return (yield from self._put(content))
        if self._options.replace:
            return (yield from self._put_large())
        return (yield from self._send_by_tus())

    def _put_headers(self) -> dict[str, str]:
        headers = {"content-type": self._options.content_type or "application/octet-stream"}
        return headers if self._options.replace else {**headers, "if-none-match": "*"}

    def _put(self, content: bytes) -> Flow[FileInfo]:
        """Send all bytes with their digest: nothing else can be stored."""
        digest = hashlib.sha256(content).digest()
        self._report("transferring", 0, 0, len(content))
        headers = {**self._put_headers(), "repr-digest": format_repr_digest(digest)}
        target = file_target(self._path, sid=self._options.sid)
        request = HttpRequest("PUT", target, headers, content, timeout=COMMIT_TIMEOUT_SECONDS)
        failed: list[RequestError] = []
        response: HttpResponse = yield from send(self._context, request, accepted={200, 201, 412}, failed=failed)
        if response.status == 412:
            problem = error_of(response)
            conflict = NameConflict("Not Unique: the name is taken", status=412, request_id=problem.request_id)
            if not failed:
                raise conflict
            # By an attempt whose response was lost, if it has these very bytes.
            found = yield from get_info(self._context, self._path)
            if found.sha256 != digest.hex():
                raise conflict
        else:
            found = parse_file_info(response, parse_json(response))
        self._report("done", len(content), len(content), len(content))
        return found

    def _put_large(self) -> Flow[FileInfo]:
        """Replace in one step: tus cannot, so this is one request, and an interruption begins anew."""
        size = self._source.size
        if size is None or not self._source.can_rewind:
            raise InvalidRequest("to replace a file with more than 16 MiB, give a path or a seekable file")
        yield from call(lambda: self._source.seek(0))
        self._report("transferring", 0, 0, size)
        target = file_target(self._path, sid=self._options.sid)
        request = HttpRequest(
            "PUT", target, self._put_headers(), source=self._source, length=size, timeout=COMMIT_TIMEOUT_SECONDS
        )
        response = yield from send(self._context, request, accepted={200, 201}, is_repeatable=False)
        found = parse_file_info(response, parse_json(response))
        yield from self._verify(found.sha256, found.etag)
        self._report("done", size, size, size)
        return found

    def _send_by_tus(self) -> Flow[FileInfo]:
        transfer = yield from self._resume()
        if transfer is None:
            transfer = yield from self._create()
        try:
            response = yield from transfer.run(self._reader, self._options.part_bytes)
        except FileMissing:
            # The upload has expired, or its name was taken. What can be read again is sent again, once.
            yield from self._forget()
            if not self._source.can_rewind:
                raise
            self._reader = PartReader(self._source)
            yield from call(lambda: self._source.seek(0))
            transfer = yield from self._create()
            response = yield from transfer.run(self._reader, self._options.part_bytes)
        yield from self._forget()
        length = transfer.offset
        self._report("verifying", length, length, length)
        etag = response.headers.get("etag")
        if etag is None:
            raise UnexpectedResponse("the server did not confirm the stored file", status=response.status)
        yield from self._verify(parse_sha256(response), etag)
        found = yield from get_info(self._context, self._path)
        self._report("done", length, length, length)
        return found

    def _resume(self) -> Flow[TusTransfer | None]:
        """Return the saved upload at its durable offset; None where there is none that can be continued."""
        if self._state is None or not self._source.can_rewind or self._source.size is None:
            return None
        saved = yield from call(self._state.load)
        if saved is None:
            return None
        transfer = self._transfer(saved.address)
        if (saved.path, saved.size, saved.fingerprint) == (self._path, self._source.size, self._source.fingerprint):
            if (yield from transfer.find_offset()):
                return transfer
        else:
            yield from transfer.terminate()
        yield from self._forget()
        return None

    def _create(self) -> Flow[TusTransfer]:
        _, filename = split_path(self._path)
        size = self._source.size
        keys = {**self._options.metadata, "filename": filename, "folder": split_path(self._path)[0]}
        keys |= {"filetype": self._options.content_type} if self._options.content_type else {}
        keys |= {"sid": self._options.sid} if self._options.sid else {}
        headers = {
            **TUS_HEADERS,
            "upload-metadata": ",".join(f"{key} {_encode(value)}" for key, value in keys.items()),
            **({"upload-defer-length": "1"} if size is None else {"upload-length": str(size)}),
        }
        request = HttpRequest("POST", "/file/tus", headers, timeout=COMMIT_TIMEOUT_SECONDS)
        response: HttpResponse = yield from send(self._context, request, accepted={201})
        location = response.headers.get("location", "")
        address = location[location.find("/file/tus/") :] if "/file/tus/" in location else ""
        if not address or not address.removeprefix("/file/tus/"):
            raise UnexpectedResponse("the server named no upload", status=response.status)
        if self._state is not None and size is not None and self._source.can_rewind:
            saved = SavedUpload(address, self._path, size, self._source.fingerprint)
            save: Callable[[SavedUpload], None] = self._state.save
            yield from call(lambda: save(saved))
        transfer = self._transfer(address)
        if size == 0:
            transfer.complete(response)
        return transfer

    def _transfer(self, address: str) -> TusTransfer:
        return TusTransfer(self._context, address, self._source.size, self._report)

    def _forget(self) -> Flow[None]:
        if self._state is not None:
            yield from call(self._state.clear)

    def _verify(self, stored_sha256: str | None, etag: str) -> Flow[None]:
        """Compare the digests. What differs is removed, because it is not the caller's file.

        Raises SourceChanged or DigestMismatch.
        """
        try:
            yield from call(self._source.check_unchanged)
            if stored_sha256 is not None and (yield from call(self._source.finish_digest)) != stored_sha256:
                raise DigestMismatch("the stored file has another SHA-256 than what was read here; it was removed")
        except RequestError:
            removal = HttpRequest("DELETE", file_target(self._path), {"if-match": etag})
            yield from send(self._context, removal, accepted={204, 404, 412})
            raise

    def _report(self, state: TransferState, transferred: int, durable: int, total: int | None) -> None:
        if self._progress is not None:
            self._progress(TransferProgress(state, transferred, durable, total))


def _encode(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
