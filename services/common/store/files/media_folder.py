"""The folder with the bytes of the files. A file lies under its id, in two levels of folders; names of media never become paths.

    FILES_DIR/store_id            the id of the store that the folder belongs to
    FILES_DIR/files/4f/2/68...24f  the file 68...24f

Every path is opened folder by folder, relative to a descriptor, and no symbolic link is followed. All functions here block: the
store runs them in its own threads.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.errors import ServiceUnavailable
from services.common.store.errors import CorruptFile
from services.common.store.files import file_io
from services.common.store.files.ids import is_id

MAX_KNOWN_ENTRIES = 4096
"""Files whose directory entries are known to be durable."""
FOLDERS = 256 * 16
"""Folders that hold files."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def folders_of(file_id: str) -> tuple[str, str]:
    """The two folders of a file: digits of its counter, so that files made one after another lie in different ones."""
    return file_id[-2:], file_id[-3]


def folder_at(index: int) -> tuple[str, str]:
    """The folder with that number, of `FOLDERS`."""
    return f"{index >> 4:02x}", f"{index & 15:x}"


class MediaFolder:
    """The files of one store. `path` is FILES_DIR."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = path / "files"
        self._synced_folders: set[tuple[str, str]] = set()
        self._synced_entries: dict[str, None] = {}

    def prepare(self) -> None:
        """Create the folders, durably. Raises RuntimeError where that is not possible."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self._root, self.path, self.path.parent):
                _sync_path(folder)
        except OSError as error:
            raise RuntimeError(f"GRIDCAST_FILES_DIR cannot be written: {error.strerror}") from error

    def read_store_id(self) -> str | None:
        """The id of the store that the folder belongs to, None where there is none yet. Raises RuntimeError."""
        try:
            descriptor = os.open(self.path / "store_id", os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RuntimeError(f"store_id in GRIDCAST_FILES_DIR cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "r", encoding="ascii", errors="replace") as file:
            return file.read(64).strip()

    def write_store_id(self, store_id: str) -> None:
        """Write that id in one step, durably."""
        # Process ids of containers that share the folder may be equal.
        temporary = self.path / f"store_id.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{store_id}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / "store_id")
        _sync_path(self.path)

    def is_empty(self) -> bool:
        """Whether no folder for files was created yet."""
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        with file_io.map_write_errors():
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    # Opening.

    def open_for_reading(self, file_id: str, access: int = os.O_RDONLY) -> int:
        """Return a descriptor. Raises CorruptFile where the file is missing or is not a regular file."""
        with file_io.map_read_errors(file_id), self._folder(file_id) as folder:
            # Not blocking: a named pipe would wait for its writer.
            descriptor = os.open(file_id, access | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        return _require_regular(descriptor, file_id)

    def open_for_writing(self, file_id: str) -> int:
        """Return a descriptor of the file, which is created where it is missing."""
        with file_io.map_write_errors():
            with self._folder(file_id, create=True) as folder:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(file_id, flags, 0o600, dir_fd=folder)
            try:
                return _require_regular(descriptor, file_id)
            except CorruptFile as error:
                raise ServiceUnavailable("a file of the store is not a regular file") from error

    def open_locked(self, file_id: str, *, create: bool = False) -> tuple[int, bool] | None:
        """Return a descriptor for writing, and whether it has the lock; None where the file is missing and not to be created."""
        try:
            descriptor = self.open_for_writing(file_id) if create else self.open_for_reading(file_id, os.O_RDWR)
        except CorruptFile:
            return None
        return descriptor, file_io.try_lock(descriptor)

    @contextmanager
    def _folder(self, file_id: str, *, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder in which the file lies."""
        try:
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:  # not mounted, perhaps: that says nothing about one file
            raise ServiceUnavailable("the folder of the files is missing") from error
        try:
            for name in folders_of(file_id):
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=descriptor)
                parent, descriptor = descriptor, os.open(name, _FOLDER_FLAGS, dir_fd=descriptor)
                os.close(parent)
            yield descriptor
        finally:
            os.close(descriptor)

    # Writing.

    def sync(self, file_id: str, length: int) -> int:
        """Make the first `length` bytes of a file and its directory entry durable, and return how many bytes it has.

        With a length of 0 nothing is done. Raises CorruptFile where there are fewer.
        """
        if not length:
            return 0
        descriptor = self.open_for_reading(file_id)
        try:
            if (found := os.fstat(descriptor).st_size) < length:
                raise CorruptFile(f"file {file_id} is shorter than what was written")
            with file_io.map_write_errors():
                file_io.sync_data(descriptor)
                if file_id not in self._synced_entries:
                    self._sync_entry(file_id)
        finally:
            os.close(descriptor)
        return found

    def _sync_entry(self, file_id: str) -> None:
        names = folders_of(file_id)
        if names not in self._synced_folders:  # another process may have created them a moment ago
            _sync_path(self._root)
            _sync_path(self._root / names[0])
        with self._folder(file_id) as folder:
            os.fsync(folder)
        self._synced_folders.add(names)
        self._synced_entries[file_id] = None
        while len(self._synced_entries) > MAX_KNOWN_ENTRIES:
            with suppress(KeyError, RuntimeError):  # another thread removes too
                del self._synced_entries[next(iter(self._synced_entries))]

    def delete(self, file_id: str) -> bool:
        """Delete a file, durably; return whether it was there."""
        self._synced_entries.pop(file_id, None)
        try:
            with file_io.map_write_errors(pass_on=FileNotFoundError), self._folder(file_id) as folder:
                os.unlink(file_id, dir_fd=folder)
                os.fsync(folder)
        except FileNotFoundError:
            return False
        return True

    def append_from(self, source_id: str, start: int, length: int, target: int, offset: int) -> bytes:
        """Copy a piece of another file, and return what was copied. Raises CorruptFile where the other file is shorter."""
        source = self.open_for_reading(source_id)
        try:
            file_io.copy_range(source, target, start, offset, length)
        finally:
            os.close(source)
        with file_io.map_write_errors():
            copied = file_io.read_at(target, offset, length)
            if offset // file_io.SYNC_BYTES != (offset + length) // file_io.SYNC_BYTES:
                file_io.sync_data(target)
        if len(copied) != length:
            raise CorruptFile("a file is shorter than what was written")
        return copied

    # Reading.

    def read_range(self, file_id: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on. Raises CorruptFile where there are fewer."""
        descriptor = self.open_for_reading(file_id)
        try:
            with file_io.map_read_errors(file_id):
                data = file_io.read_at(descriptor, start, length)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise CorruptFile(f"file {file_id} is shorter than what was written")
        return data

    def read_pieces(self, file_id: str, length: int, start: int, end: int, piece_size: int) -> list[bytes]:
        """Return bytes `start` to `end` of a file of `length` bytes, in pieces; the last one ends with the file.

        Raises CorruptFile where the file has another length.
        """
        descriptor = self.open_for_reading(file_id)
        try:
            with file_io.map_read_errors(file_id):
                if (found := os.fstat(descriptor).st_size) != length:
                    raise CorruptFile(f"file {file_id} has {found} bytes instead of {length}")
                pieces = []
                for position in range(start, min(length, end), piece_size):
                    size = min(piece_size, length - position)
                    piece = file_io.read_at(descriptor, position, size)
                    if len(piece) != size:  # truncated at this moment
                        break
                    pieces.append(piece)
        finally:
            os.close(descriptor)
        if not pieces:
            raise CorruptFile(f"file {file_id}: byte {start} is missing")
        return pieces

    def length_of(self, file_id: str) -> int | None:
        """Return the length of a file, None where it is missing or is not a regular file."""
        try:
            descriptor = self.open_for_reading(file_id)
        except CorruptFile:
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def list_folder(self, index: int) -> list[tuple[str, float]]:
        """The files in one of the folders: their ids, and the seconds since 1970 of their last change.

        Whatever is not a regular file with an id for a name is left out.
        """
        found: list[tuple[str, float]] = []
        names = folder_at(index)
        with file_io.map_write_errors():
            try:
                outer = os.open(self._root / names[0], _FOLDER_FLAGS)
            except FileNotFoundError:
                return []
            try:
                inner = os.open(names[1], _FOLDER_FLAGS, dir_fd=outer)
            except FileNotFoundError:
                return []
            finally:
                os.close(outer)
            try:
                with os.scandir(inner) as entries:
                    for entry in entries:
                        if is_id(entry.name) and entry.is_file(follow_symlinks=False):
                            with suppress(FileNotFoundError):
                                found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
            finally:
                os.close(inner)
        return found


def _require_regular(descriptor: int, file_id: str) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptFile(f"file {file_id} is not a regular file")
    return descriptor


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
