"""Which store a local run takes, and why: by request, by the environment, by its data, and by whether there is a mongod."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from deploy.local import store_choice
from deploy.local.binaries import MONGOD
from deploy.local.errors import StackError
from deploy.local.store_choice import choose_store

VARIABLES = ("STORE", "MONGODB_URI")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a mongod on the PATH, and no variable that chooses."""
    for name in os.environ:
        if name.startswith("GRIDCAST_") or name in VARIABLES:
            monkeypatch.delenv(name)
    install_mongod(monkeypatch, tmp_path, "exit 0")


def install_mongod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir(exist_ok=True)
    program = folder / "mongod"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


def make_data(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("requested", "variables", "data", "store", "reason"),
    [
        ("files", {"STORE": "gridfs"}, (), "files", "STORE says so"),
        (None, {"STORE": "files", "MONGODB_URI": "mongodb://a"}, (), "files", "STORE says so"),
        (None, {"GRIDCAST_STORE": "files"}, ("mongo/WiredTiger",), "files", "GRIDCAST_STORE says so"),
        (None, {"STORE": ""}, (), "gridfs", "mongod is on the PATH"),
        (None, {"MONGODB_URI": "mongodb://a"}, ("files/store_id",), "gridfs", "MONGODB_URI is set"),
        (None, {"GRIDCAST_MONGODB_URI": "mongodb://a"}, (), "gridfs", "MONGODB_URI is set"),
        (None, {"GRIDCAST_DATABASE_URL": "sqlite+aiosqlite:///a"}, (), "files", "GRIDCAST_DATABASE_URL is set"),
        (None, {"GRIDCAST_FILES_DIR": "a"}, ("mongo/storage.bson",), "files", "GRIDCAST_FILES_DIR is set"),
        (None, {}, ("files/store_id",), "files", "files has data"),
        (None, {}, ("files/mine",), "gridfs", "mongod is on the PATH"),
        (None, {}, ("mongo/WiredTiger",), "gridfs", "mongo has data"),
        (None, {}, ("mongo/WiredTiger", "files/gridcast.sqlite3"), "gridfs", "mongod is on the PATH"),
    ],
)
def test_choice(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    requested: str | None,
    variables: dict[str, str],
    data: tuple[str, ...],
    store: str,
    reason: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    choice = choose_store(requested, make_data(tmp_path / "data", *data), installed=True)
    assert choice.store == store
    assert (
        choice.reason.replace(f"{tmp_path / 'data'}/", "")
        .replace(f"{tmp_path / 'programs'}/", "")
        .startswith(reason.replace("mongod is on", "mongod is on"))
    )
    other = "gridfs" if store == "files" else "files"
    assert choice.describe() == f"store: {store}, because {choice.reason}; STORE={other} chooses the other"


@pytest.mark.parametrize("name", ["STORE", "GRIDCAST_STORE"])
def test_unknown_store_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(name, "disk")
    with pytest.raises(StackError, match=f"^{name} must be gridfs or files$"):
        choose_store(None, tmp_path, installed=True)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('echo "first" >&2; echo "libcurl.so.4 is missing" >&2; exit 127', "libcurl.so.4 is missing"),
        ("exit 3", "it ends with exit code 3"),
        ("kill -ILL $$", "it ends with SIGILL"),
        ("sleep 60", "no version within 0.5 s"),
    ],
)
def test_mongod_that_cannot_run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str) -> None:
    monkeypatch.setattr(store_choice, "PROBE_TIMEOUT_SECONDS", 0.5)
    install_mongod(monkeypatch, tmp_path, f"PATH=/usr/bin:/bin; {script}")
    choice = choose_store(None, tmp_path, installed=True)
    assert (choice.store, choice.reason) == ("files", f"mongod cannot run here ({reason})")


def test_before_the_installation_the_promise_of_a_wheel_suffices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And a program is not run: what the wheel brings is not there yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_store(None, tmp_path, installed=False).store == ("gridfs" if MONGOD.is_available() else "files")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("importlib.metadata.distribution", _no_distribution)
    choice = choose_store(None, tmp_path, installed=False)
    assert (choice.store, choice.reason) == ("files", "mongod was not found")
    assert choose_store(None, tmp_path, installed=True) == choice


def _no_distribution(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)
