"""Targets of downloads: a path, by way of a part file that survives the process, or a file object."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

from gridcast.errors import DigestMismatch, FileChanged, InvalidRequest, TransferBusy

try:
    import fcntl
except ImportError:  # Windows: two downloads to one path are not noticed there
    fcntl = None  # type: ignore[assignment]

READ_BLOCK_BYTES = 1024 * 1024


class PathTarget:
    """A file that appears at its path complete, or not at all.

    Its bytes are collected in a part file beside it. The name of that has the ETag, so another process continues the same version,
    and never another one. Lengths in bytes.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder")
        self._path = path
        self._part: Path | None = None
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def begin(self, etag: str, length: int) -> int:
        self.close()
        tag = hashlib.sha256(f"{self._path.name}\0{etag}".encode()).hexdigest()[:32]
        self._part = self._path.with_name(f".gridcast-{tag}.part")
        self._file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        if fcntl is not None:
            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TransferBusy(f"another process is downloading to {self._path}") from None
        self._digest = hashlib.sha256()
        if os.fstat(self._file.fileno()).st_size > length:
            self._file.truncate(0)
        offset = 0
        while block := self._file.read(READ_BLOCK_BYTES):
            self._digest.update(block)
            offset += len(block)
        return offset

    def write(self, data: bytes) -> None:
        file = self._open_file()
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        self._digest.update(data)

    def finish(self, sha256: str | None) -> None:
        self._open_file()
        part = self._part
        if part is None:  # pragma: no cover  # `begin` sets both
            raise InvalidRequest("the download has not begun")
        if sha256 is not None and self._digest.hexdigest() != sha256:
            part.unlink()
            self.close()
            raise DigestMismatch("what was received has another SHA-256 than the file; nothing was kept of it")
        part.replace(self._path)
        self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            if self._part is not None:
                with contextlib.suppress(OSError):
                    if self._part.stat().st_size == 0:
                        self._part.unlink()

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise InvalidRequest("the download has not begun")
        return self._file


class FileTarget:
    """A binary file object of the caller, written from its position on. It stays open."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._written = 0

    def begin(self, etag: str, length: int) -> int:
        del etag, length
        if self._written:
            raise FileChanged("the file was replaced while it was read, and its beginning is written already")
        return 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self._file.write(view)
            view = view[len(view) if count is None else count :]
        self._digest.update(data)
        self._written += len(data)

    def finish(self, sha256: str | None) -> None:
        if sha256 is not None and self._digest.hexdigest() != sha256:
            raise DigestMismatch("what was received has another SHA-256 than the file")

    def close(self) -> None:
        """The caller closes the file."""


def open_target(target: object) -> PathTarget | FileTarget:
    """Return a target for a path or a binary file object. Raises InvalidRequest for anything else."""
    if isinstance(target, str | os.PathLike):
        return PathTarget(Path(target))
    if hasattr(target, "write"):
        return FileTarget(target)
    raise InvalidRequest("a target is a path or a binary file object")
