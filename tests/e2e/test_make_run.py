"""`make run` in a clean copy of the tree. The environment is this one's, so that nothing is downloaded; none is made."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT
from tests.support.programs import require_program
from tests.support.stack import STACK_VARIABLES, Forked, Stack, run_stack
from tests.support.waiting import eventually

SOURCE_PATHS = (
    "Makefile",
    "pyproject.toml",
    "requirements",
    "services",
    "gateway",
    "deploy",
    "clients/python",
    "clients/js/src",
)


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    require_program("make", "make")
    assert (PROJECT_ROOT / ".venv/local.stamp").exists(), "run `make setup`: the copy uses this environment"
    folder = copy_sources(tmp_path / "copy", compiled=True)
    (folder / ".venv").symlink_to((PROJECT_ROOT / ".venv").resolve())
    return folder


def copy_sources(folder: Path, *, compiled: bool = False) -> Path:
    """Copy what `make run` needs, without an environment. `compiled`: with the bytecode that is there, as after a run."""
    folder.mkdir()
    unfinished = "*.pyc.*"  # what another process is writing
    ignored = shutil.ignore_patterns(unfinished if compiled else "__pycache__")
    for part in SOURCE_PATHS:
        if (PROJECT_ROOT / part).is_dir():
            shutil.copytree(PROJECT_ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copy2(PROJECT_ROOT / part, folder / part)
    # Older than the environment, whenever they were checked out.
    for prerequisite in (*(folder / "requirements").iterdir(), folder / "clients/python/pyproject.toml"):
        os.utime(prerequisite, (0, 0))
    return folder


def environment(**variables: str) -> dict[str, str]:
    """This environment without what would change the run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "GRIDCAST_"))}
    return {name: value for name, value in kept.items() if name not in STACK_VARIABLES} | variables


def test_port_and_data(source_copy: Path, tmp_path: Path) -> None:
    """It listens on PORT, keeps its data in DATA, and Ctrl-C ends all of it."""
    (port,) = free_ports(1)
    data = tmp_path / "elsewhere"
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(
            ["make", "run", f"PORT={port}", f"DATA={data}"],
            cwd=source_copy,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://{HOST}:{port}"
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 60, "the stack is ready")
        httpx.put(f"{url}/file/stream?filename=a", content=b"12345").raise_for_status()
        assert httpx.get(f"{url}/file/stream?filename=a").content == b"12345"
        assert (data / "mongo").is_dir()
        assert not (source_copy / ".gridcast").exists()
    finally:
        os.killpg(run.pid, signal.SIGINT)
        run.wait(60)
        shutil.rmtree(data / "mongo", ignore_errors=True)
    text = (tmp_path / "said").read_text("utf-8")
    assert "install" not in text, "nothing was installed"
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" stopped")] == [
        "gateway",
        "live",
        "socket",
        "stream",
        "upload",
        "redis-server",
        "mongod",
    ]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.fixture(scope="module")
def bare_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without a virtual environment, for commands that must not create one."""
    return copy_sources(tmp_path_factory.mktemp("bare") / "copy", compiled=True)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (
            {"STORE": "gridfs"},
            ["mongod not found: install MongoDB", "redis-server not found: install Redis 6.2 or newer or Valkey"],
        ),
        ({"STORE": "disk"}, ["STORE must be gridfs or files"]),
        ({"MONGODB_URI": "mongodb://example.org"}, ["redis-server not found: install Redis 6.2 or newer or Valkey"]),
        ({}, ["redis-server not found: install Redis 6.2 or newer or Valkey"]),
        ({"STORE": "gridfs", "GRIDCAST_REDIS_URL": "redis://example.org"}, ["mongod not found: install MongoDB"]),
    ],
)
def test_missing_servers_are_named_before_anything_is_installed(
    bare_copy: Path, tmp_path: Path, environ: dict[str, str], named: list[str]
) -> None:
    """On a platform for which no wheel brings them."""
    make = require_program("make", "make")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} "$@"\n')
    (programs / "python3").chmod(0o755)
    (programs / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'riscv64'\n")
    done = subprocess.run(
        [make, "run"],
        cwd=bare_copy,
        env=environment(PATH=str(programs), PYTHONPATH=str(programs), **environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if line.startswith("gridcast: "))
    assert [part.startswith(start) for part, start in zip(line[10:].split("; "), named, strict=True)] == [True] * len(
        named
    )
    assert done.stdout == ""
    assert not (bare_copy / ".venv").exists()


def run_copy(
    folder: Path, tmp_path: Path, *options: str, forked: Forked = Forked.NOTHING
) -> AbstractContextManager[Stack]:
    """The stack of a copy of the sources, with --reload. Services that are forked have the code of this tree."""
    paths = os.pathsep.join(map(str, (folder, folder / "clients/python/src", PROJECT_ROOT)))
    return run_stack(tmp_path / "data", "--reload", *options, env={"PYTHONPATH": paths}, cwd=folder, forked=forked)


def test_reload_restarts_what_imports_the_changed_file(tmp_path: Path) -> None:
    """Thirteen restarts; that a restarted service runs the changed code is shown below."""
    folder = copy_sources(tmp_path / "copy", compiled=True)
    with run_copy(folder, tmp_path, forked=Forked.SERVICES) as stack:
        before = stack.pids

        def change(path: str, *names: str) -> None:
            """Append an empty line, wait until these are ready again, and check that no other was restarted."""
            start = len(stack.stdout)
            with (folder / path).open("a") as file:
                file.write("\n")
            ready = re.compile(r"^(\S+) +ready in", re.MULTILINE)
            eventually(lambda: {*names} <= {*ready.findall(stack.stdout[start:])}, 60.0, f"{names} are ready again")
            restarted = re.findall(r"^(\S+) +restarts: (.*) changed$", stack.stdout[start:], re.MULTILINE)
            assert sorted(restarted) == [(name, path) for name in sorted(names)]

        change("services/stream/ranges.py", "stream-1")
        change("gateway/page/index.html", "gateway")
        change("clients/js/src/events.js", "gateway")
        change("services/socket/lua/heartbeat.lua", "socket-1")
        change("clients/python/src/gridcast/publish.py", "upload-1", "stream-1", "socket-1", "live-1")
        change("services/common/media.py", "upload-1", "stream-1", "socket-1", "live-1", "gateway")
        assert {name: stack.pids[name] for name in ("mongod", "redis-server")} == {
            name: before[name] for name in ("mongod", "redis-server")
        }
        assert httpx.get(f"{stack.url}/readyz").status_code == 200
        assert stack.terminate() == 0
    shutil.rmtree(tmp_path / "data" / "mongo")


def test_reload_of_broken_code_waits_for_the_next_change(tmp_path: Path) -> None:
    folder = copy_sources(tmp_path / "copy", compiled=True)
    source = folder / "services/stream/api.py"
    text = source.read_text("utf-8")
    with run_copy(folder, tmp_path, "--store", "files") as stack:
        pid = stack.pids["stream-1"]
        source.write_text(f"{text}\nthis is(\n", "utf-8")
        eventually(lambda: "SyntaxError: '(' was never closed" in stack.stdout, 30.0, "the error is reported")
        assert "; it is started again when its sources change" in stack.stdout
        assert httpx.get(f"{stack.url}/livez").status_code == 200, "the others go on"
        source.write_text(text, "utf-8")
        eventually(lambda: stack.pids["stream-1"] != pid, 30.0, "it is ready again")
        assert stack.terminate() == 0
        assert stack.stderr == ""
