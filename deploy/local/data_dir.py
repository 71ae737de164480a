"""The data folder: what is in it, and that only one run uses it. Knows nothing of what runs."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError

# A run that was killed has left the folder when its mongod is gone too, which takes a moment.
LOCK_TIMEOUT = 3.0


@dataclass(frozen=True)
class DataDir:
    root: Path
    lock_fd: int
    """The descriptor that keeps others out. Who writes data holds it as long as it lives."""

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
    """The folder, made if need be, with the logs of the last run emptied."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StackError(f"the data folder {root} cannot be used: {error.strerror}") from error
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
                    f"the data folder {root} is in use by another run; choose another one with DATA="
                ) from None
            pause(0.1)
        else:
            return
