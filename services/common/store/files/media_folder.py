"""The folder with the bytes of the files. A file lies under its id, in two levels of folders; names of media never become paths.

    FILES_DIR/store_id            the id of the store that the folder belongs to
    FILES_DIR/files/4f/2/68...24f  the file 68...24f

Every path is opened folder by folder, relative to a descriptor, and no symbolic link is followed. All functions here block: the
store runs them in its own threads.
"""

import errno
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable
from services.common.store.errors import CorruptFile
from services.common.store.files.ids import is_id
from services.common.store.limits import BLOCK_SIZE

COPY_BYTES = 8 * 1024 * 1024
"""Bytes copied by one call of copy_file_range."""
SYNC_BYTES = 16 * 1024 * 1024
"""A file is synced once in this many bytes: its last sync is short, and a client is read no faster than the disk writes."""
MAX_KNOWN_ENTRIES = 4096
"""Files whose directory entries are known to be durable."""
FOLDERS = 256 * 16
"""Folders that hold files."""

_log = logging.getLogger("gridcast.store")
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CANNOT_COPY = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV})
_NOT_AS_WRITTEN = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})


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
        with map_write_errors():
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    # Opening.

    def open_for_reading(self, file_id: str, access: int = os.O_RDONLY) -> int:
        """Return a descriptor. Raises CorruptFile where the file is missing or is not a regular file."""
        with map_read_errors(file_id), self._folder(file_id) as folder:
            # Not blocking: a named pipe would wait for its writer.
            descriptor = os.open(file_id, access | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        return _require_regular(descriptor, file_id)

    def open_for_writing(self, file_id: str) -> int:
        """Return a descriptor of the file, which is created where it is missing."""
        with map_write_errors():
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
        return descriptor, try_lock(descriptor)

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
            with map_write_errors():
                sync_data(descriptor)
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
            with map_write_errors(pass_on=FileNotFoundError), self._folder(file_id) as folder:
                os.unlink(file_id, dir_fd=folder)
                os.fsync(folder)
        except FileNotFoundError:
            return False
        return True

    def append_from(self, source_id: str, start: int, length: int, target: int, offset: int) -> bytes:
        """Copy a piece of another file, and return what was copied. Raises CorruptFile where the other file is shorter."""
        source = self.open_for_reading(source_id)
        try:
            copy_range(source, target, start, offset, length)
        finally:
            os.close(source)
        with map_write_errors():
            copied = read_at(target, offset, length)
            if offset // SYNC_BYTES != (offset + length) // SYNC_BYTES:
                sync_data(target)
        if len(copied) != length:
            raise CorruptFile("a file is shorter than what was written")
        return copied

    # Reading.

    def read_range(self, file_id: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on. Raises CorruptFile where there are fewer."""
        descriptor = self.open_for_reading(file_id)
        try:
            with map_read_errors(file_id):
                data = read_at(descriptor, start, length)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise CorruptFile(f"file {file_id} is shorter than what was written")
        return data

    def read_blocks(self, file_id: str, length: int, first_block: int, last_block: int) -> list[bytes]:
        """Return blocks of a file of `length` bytes. Raises CorruptFile where the file has another length."""
        descriptor = self.open_for_reading(file_id)
        try:
            with map_read_errors(file_id):
                if (found := os.fstat(descriptor).st_size) != length:
                    raise CorruptFile(f"file {file_id} has {found} bytes instead of {length}")
                blocks = []
                for start in range(first_block * BLOCK_SIZE, min(length, (last_block + 1) * BLOCK_SIZE), BLOCK_SIZE):
                    size = min(BLOCK_SIZE, length - start)
                    block = read_at(descriptor, start, size)
                    if len(block) != size:  # truncated at this moment
                        break
                    blocks.append(block)
        finally:
            os.close(descriptor)
        if not blocks:
            raise CorruptFile(f"file {file_id}: block {first_block} is missing")
        return blocks

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
        with map_write_errors():
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


def try_lock(descriptor: int) -> bool:
    """Lock a file against all other writers until the descriptor is closed; False where another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_at(descriptor: int, offset: int, pieces: Sequence[bytes], *, sync: bool = False) -> None:
    """Write all pieces from `offset` on, and begin to bring them to the disk; with `sync` the whole file is durable then."""
    with map_write_errors():
        views = [memoryview(piece) for piece in pieces if piece]
        position = offset
        while views:
            count = os.pwritev(descriptor, views[:1024], position)
            position += count
            while views and count >= len(views[0]):
                count -= len(views[0])
                del views[0]
            if count:
                views[0] = views[0][count:]
        if hasattr(os, "posix_fadvise") and not sync:
            # Linux begins to write dirty pages of the range, and drops none of them: the sync that follows waits less.
            os.posix_fadvise(descriptor, offset, position - offset, os.POSIX_FADV_DONTNEED)
        if sync or offset // SYNC_BYTES != position // SYNC_BYTES:
            sync_data(descriptor)


def sync_data(descriptor: int) -> None:
    """Make all bytes of a file durable, and its length."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:  # macOS, whose fsync leaves the bytes in the cache of the disk
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]


def truncate_to(descriptor: int, length: int) -> None:
    """Cut off what is beyond `length` bytes."""
    with map_write_errors():
        if os.fstat(descriptor).st_size > length:
            os.ftruncate(descriptor, length)


def copy_range(source: int, target: int, start: int, offset: int, length: int) -> None:
    """Copy `length` bytes, within the kernel where it can do that. Raises CorruptFile where the source has fewer."""
    with map_write_errors():
        while length:
            count = _copy_once(source, target, min(length, COPY_BYTES), start, offset)
            if not count:
                raise CorruptFile("a file is shorter than what was written")
            start, offset, length = start + count, offset + count, length - count


def _copy_once(source: int, target: int, length: int, start: int, offset: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, length, start, offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    return os.pwrite(target, os.pread(source, min(length, 2**20), start), offset)


def read_at(descriptor: int, start: int, length: int) -> bytes:
    """Read up to `length` bytes; fewer at the end of the file only."""
    data = os.pread(descriptor, length, start)
    while 0 < len(data) < length:  # interrupted, or a file system that reads in pieces
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


@contextmanager
def map_write_errors(pass_on: type[OSError] | tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Map errors of the operating system to InsufficientStorage and ServiceUnavailable; those of `pass_on` pass unchanged."""
    try:
        yield
    except OSError as error:
        if isinstance(error, pass_on):
            raise
        raise _map_error(error) from error


@contextmanager
def map_read_errors(file_id: str) -> Iterator[None]:
    """Map a file that is missing, or a symbolic link, to CorruptFile, and everything else to ServiceUnavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_AS_WRITTEN:
            raise CorruptFile(f"file {file_id}: {error.strerror}") from error
        raise _map_error(error) from error


def _map_error(error: OSError) -> GridcastError:
    if error.errno in _FULL:
        return InsufficientStorage("insufficient disk space for this file")
    _log.error("the folder of the files cannot be used: %s", error.strerror)
    return ServiceUnavailable("the files cannot be read or written")


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
