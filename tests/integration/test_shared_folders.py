"""A folder that is filled once for all processes of a test run."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared_folders import make_once


def test_one_of_many_fills_the_folder_for_all(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    name = tmp_path.name + "-shared"
    made: list[Path] = []
    all_ask = threading.Barrier(8)

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")

    def ask(_: int) -> Path:
        all_ask.wait(20)
        return make_once(tmp_path_factory, name, make)

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(ask, range(8)))
    assert len(made) == 1
    assert {folder / "file" for folder in folders} == {made[0] / "file"}
    assert (folders[0] / "file").read_text() == "whole"


def test_the_folder_of_one_that_failed_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    name = tmp_path.name + "-shared"

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        make_once(tmp_path_factory, name, fail)
    folder = make_once(tmp_path_factory, name, lambda folder: (folder / "file").touch())
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_workers_share_the_folder_of_their_run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setattr(tmp_path_factory, "_basetemp", tmp_path / "popen-gw0")
    (tmp_path / "popen-gw0").mkdir()
    assert make_once(tmp_path_factory, "shared", lambda _: None) == tmp_path / "shared"
