"""The data folder: what is in it, and that only one run uses it. Knows nothing of what runs."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.failure import Failure

# A run that was killed has left the folder when its mongod is gone too, which takes a moment.
PATIENCE = 3.0


@dataclass(frozen=True)
class DataFolder:
    root: Path
    lock: int
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
def opened(root: Path, pause: Callable[[float], object]) -> Iterator[DataFolder]:
    """The folder, made if need be, with the logs of the last run emptied."""
    try:
        (root / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Failure(f"the data folder {root} cannot be used: {error.strerror}") from error
    try:
        _claim(lock, root, pause)
        for log in (root / "logs").glob("*.log"):
            log.unlink()
        yield DataFolder(root, lock)
    finally:
        os.close(lock)


def _claim(lock: int, root: Path, pause: Callable[[float], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Failure(
                    f"the data folder {root} is in use by another run; choose another one with DATA="
                ) from None
            pause(0.1)
        else:
            return
