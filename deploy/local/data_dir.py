"""The data directory of the local run: its layout, a lock that lets only one run use it, and a record of what runs made in it.

A user may name a directory that has files of their own. Only logs that the record names are deleted, and only directories that were
empty, or that a mongod made, are given to mongod, which deletes what it does not know.
"""

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.errors import StackError
from deploy.local.ports import free_ports, is_free

# Seconds. After a run was killed its mongod and redis-server hold the lock until they have ended as well.
LOCK_TIMEOUT = 3.0
RECORD_NAME = "gridcast.json"
FILES_STORE_FILES = ("store_id", "gridcast.sqlite3", "gridcast.sqlite3.lock")
"""A folder with one of these is a files store's."""
MONGOD_FILES = ("WiredTiger", "storage.bson")
"""mongod makes these first; a directory with one of them is a mongod's."""


def default_root() -> Path:
    """The data directory where none is named: DATA, else .gridcast."""
    return Path(os.environ.get("DATA") or ".gridcast")


@dataclass(frozen=True)
class DataDir:
    """An open data directory. `record` is what RECORD_NAME holds: the logs that runs made, and the ports of the databases."""

    root: Path
    lock_fd: int
    """The locked descriptor. mongod and redis-server inherit it, so that the lock lasts until no process writes data."""
    _logs: list[str] = field(default_factory=list)
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def mongo(self) -> Path:
        return self.root / "mongo"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def create_log(self, name: str) -> Path:
        """Return the path of a log. It is recorded where it did not exist; an existing file is appended to and never deleted."""
        path = self.logs / f"{name}.log"
        try:
            path.open("xb").close()
        except FileExistsError:
            return path
        except OSError as error:
            raise _unusable(self.root, error) from error
        self._logs.append(path.name)
        self._write_record()
        return path

    def ports_of(self, *names: str) -> list[int]:
        """Return a port for each name: the one of the last run if it is free, else another one, which is recorded."""
        chosen = {name: self._ports[name] for name in names if name in self._ports and is_free(self._ports[name])}
        fresh = [name for name in names if name not in chosen]
        chosen |= zip(fresh, free_ports(len(fresh)), strict=True)
        self._ports.update(chosen)
        self._write_record()
        return [chosen[name] for name in names]

    def ingest_key(self) -> str:
        """Return the key of the ingest's publishers: the one of the last run, else a new one, which is kept."""
        path = self.root / "ingest_key"
        try:
            if not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_hex(16))
            return path.read_text("ascii")
        except (OSError, ValueError) as error:
            raise StackError(f"the file {path} cannot be used: {error}") from error

    def check_mongo_dir(self) -> None:
        """Raise StackError if the directory for mongod holds anything but the data of a mongod."""
        _check_is_ours(self.mongo, MONGOD_FILES, "no mongod")

    def check_files_dir(self) -> None:
        """Raise StackError if the directory of the files store holds anything but a files store."""
        _check_is_ours(self.files, FILES_STORE_FILES, "no files store")

    def delete_logs(self) -> None:
        """Delete the logs that runs made."""
        for name in self._logs:
            with contextlib.suppress(FileNotFoundError):
                (self.logs / name).unlink()
        self._logs.clear()
        self._write_record()

    def _write_record(self) -> None:
        text = json.dumps({"logs": self._logs, "ports": self._ports}, indent=2) + "\n"
        # Replaced in one step: a partial record would be taken for another program's file.
        try:
            descriptor, fresh = tempfile.mkstemp(dir=self.root, prefix=f".{RECORD_NAME}-")
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(fresh).replace(self.root / RECORD_NAME)
        except OSError as error:
            raise _unusable(self.root, error) from error


@contextlib.contextmanager
def open_data_dir(root: Path, pause: Callable[[float], object]) -> Iterator[DataDir]:
    """Lock the directory, create it if it does not exist, and delete the logs that the last run made. Raises StackError."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unusable(root, error) from error
    try:
        _acquire_lock(lock, root, pause)
        try:
            data_dir = DataDir(root, lock, *_read_record(root / RECORD_NAME))
            data_dir.delete_logs()
        except OSError as error:
            raise _unusable(root, error) from error
        yield data_dir
    finally:
        os.close(lock)


def _check_is_ours(folder: Path, first_files: tuple[str, ...], other_maker: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = {entry.name for entry in folder.iterdir()}
        if names and names.isdisjoint(first_files):
            raise StackError(f"{folder} has files that {other_maker} made; choose another directory with DATA=")


def _unusable(root: Path, error: OSError) -> StackError:
    return StackError(f"the data directory {root} cannot be used: {error.strerror}")


def _read_record(path: Path) -> tuple[list[str], dict[str, int]]:
    """The logs and ports of the record. Raises StackError for a file that no run has written, which is not replaced."""
    try:
        found: Any = json.loads(path.read_bytes())
        logs, ports = found["logs"], found["ports"]
        names_are_plain = all(Path(name).name == name and name.endswith(".log") for name in logs)
        if names_are_plain and all(0 < int(port) <= 65535 for port in ports.values()):
            return list(logs), {str(name): int(port) for name, port in ports.items()}
    except FileNotFoundError:
        return [], {}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise StackError(f"{path} is not a record of Gridcast; choose another directory with DATA=")


def _acquire_lock(lock_fd: int, root: Path, pause: Callable[[float], object]) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StackError(
                    f"the data directory {root} is in use by another run; choose another one with DATA="
                ) from None
            pause(0.1)
        else:
            return
