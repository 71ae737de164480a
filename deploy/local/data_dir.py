"""The data directory of the local run: its layout, and a lock that lets only one run use it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError

# Seconds. After a run was killed its mongod holds the lock until it has ended as well.
LOCK_TIMEOUT = 3.0


@dataclass(frozen=True)
class DataDir:
    root: Path
    lock_fd: int
    """The locked descriptor. mongod inherits it, so that the lock lasts until no process writes data."""

    @property
    def mongo(self) -> Path:
        return self.root / "mongo"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@contextlib.contextmanager
def open_data_dir(root: Path, pause: Callable[[float], object]) -> Iterator[DataDir]:
    """Lock the directory, create it if it does not exist, and delete the logs of the last run. Raises StackError."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StackError(f"the data directory {root} cannot be used: {error.strerror}") from error
    try:
        _acquire_lock(lock, root, pause)
        for log in (root / "logs").glob("*.log"):
            log.unlink()
        yield DataDir(root, lock)
    finally:
        os.close(lock)


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
