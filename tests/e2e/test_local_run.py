"""The local run: it starts, keeps its data, reports a failure in one line, and leaves no process."""

import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.stack import Stack, run_stack
from tests.support.waiting import eventually

RUN_MARKER_VARIABLE = "TEST_RUN_MARK"


@pytest.fixture
def run_marker_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A variable that every process of a run inherits, to find all of them by. None may be left."""
    env = {RUN_MARKER_VARIABLE: str(tmp_path)}
    yield env
    shutil.rmtree(tmp_path / "data" / "mongo", ignore_errors=True)
    left = find_marked_processes(env)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def find_marked_processes(env: dict[str, str]) -> list[int]:
    """The processes of a run; redis-server, which overwrites its environment, by its working directory."""
    folder = env[RUN_MARKER_VARIABLE]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            inside = (process / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if inside or f"{RUN_MARKER_VARIABLE}={folder}".encode() in variables:
            found.append(int(process.name))
    return sorted(found)


def wait_for_error_line(stack: Stack) -> str:
    """Wait until the run has failed and return its one line."""
    assert stack.process.wait(60) == 1
    (line,) = stack.stderr.splitlines()
    assert line.startswith("gridcast: ")
    return line


@pytest.fixture
def program_dir(tmp_path: Path) -> Path:
    """A folder of programs to put before or instead of the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    return folder


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_data_survive_a_restart(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    content = os.urandom(700_000)
    data = tmp_path / "data"
    query = {"filename": "v.webm", "folder": "demo"}
    with run_stack(data, env=run_marker_env) as stack:
        created = httpx.post(f"{stack.url}/file/upload", files={"file": ("v.webm", content)}, data={"folder": "demo"})
        assert created.status_code == 201, created.text
        assert stack.terminate() == 0
    with run_stack(data, env=run_marker_env) as stack:
        found = httpx.get(f"{stack.url}/file/stream", params=query)
        assert found.status_code == 200
        assert found.content == content


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_children_in_reverse_order(
    tmp_path: Path, run_marker_env: dict[str, str], number: signal.Signals
) -> None:
    with run_stack(
        tmp_path / "data", "--sockets", "2", "--streams", "2", "--uploads", "2", env=run_marker_env
    ) as stack:
        assert {*stack.pids.values(), stack.process.pid} == set(find_marked_processes(run_marker_env))
        assert stack.terminate(number) == 0
        assert find_marked_processes(run_marker_env) == []
        stopped = [line.split()[0] for line in stack.stdout.splitlines() if line.endswith(" stopped")]
        assert stopped == ["gateway", "socket", "stream", "upload", "redis-server", "mongod"]
        assert stack.stderr == ""


def test_killed_runner_leaves_no_child_and_no_lock(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    with run_stack(data, env=run_marker_env) as stack:
        assert len(stack.pids) == 6
        stack.process.kill()
        stack.process.wait(10)
        with run_stack(data, env=run_marker_env) as again:
            assert not set(stack.pids.values()) & set(find_marked_processes(run_marker_env))
            assert again.terminate() == 0


def test_signal_during_start_stops_the_started_children(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_stack(tmp_path / "data", env=run_marker_env, up=False) as stack:
        eventually(lambda: "mongod" in stack.pids)
        assert stack.terminate(signal.SIGINT) == 0
        assert find_marked_processes(run_marker_env) == []


def test_second_interrupt_kills_hanging_children(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_stack(tmp_path / "data", env=run_marker_env) as stack:
        os.kill(stack.pids["stream-1"], signal.SIGSTOP)
        stack.process.send_signal(signal.SIGINT)
        eventually(lambda: "socket        stopped" in stack.stdout)
        assert stack.terminate(signal.SIGINT) == 1
        assert "killed after the stop timeout: stream-1" in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []


@pytest.mark.parametrize("name", ["mongod", "redis-server", "stream-1", "gateway"])
def test_exit_of_a_child_ends_the_run(tmp_path: Path, run_marker_env: dict[str, str], name: str) -> None:
    with run_stack(tmp_path / "data", env=run_marker_env) as stack:
        os.kill(stack.pids[name], signal.SIGKILL)
        assert f"{name} was ended by SIGKILL" in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []


def test_occupied_port_is_reported_before_anything_starts(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    (port,) = free_ports(1)
    with (
        closing(socket.create_server((HOST, port))),
        run_stack(tmp_path / "data", env=run_marker_env, port=port, up=False) as stack,
    ):
        assert f"port {port} is already taken" in wait_for_error_line(stack)
        assert stack.stdout == ""


def test_second_run_on_one_data_dir_is_refused(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    with run_stack(data, env=run_marker_env) as first, run_stack(data, env=run_marker_env, up=False) as second:
        assert f"{data} is in use by another run" in wait_for_error_line(second)
        assert httpx.get(f"{first.url}/readyz").status_code == 200


def test_uncreatable_data_dir_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    data.write_text("in the way")
    with run_stack(data, env=run_marker_env, up=False) as stack:
        assert "cannot be used" in wait_for_error_line(stack)


def test_missing_program_is_reported(tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    # The wheels' programs are found by their distributions' names: none is found where this stands first.
    (nothing / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "def distribution(name):\n"
        "    raise metadata.PackageNotFoundError(name)\n"
        "metadata.distribution = distribution\n"
    )
    env = {**run_marker_env, "PATH": str(program_dir), "PYTHONPATH": str(nothing)}
    with run_stack(tmp_path / "data", env=env, up=False) as stack:
        assert "mongod not found: install MongoDB" in wait_for_error_line(stack)


def test_program_with_a_missing_library_is_reported(
    tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path
) -> None:
    write_script(
        program_dir / "mongod", 'echo "mongod: error while loading shared libraries: libcurl.so.4" >&2; exit 127'
    )
    env = {**run_marker_env, "PATH": f"{program_dir}:{os.environ['PATH']}"}
    with run_stack(tmp_path / "data", env=env, up=False) as stack:
        line = wait_for_error_line(stack)
        assert "mongod cannot be started: mongod: error while loading shared libraries: libcurl.so.4" in line
        assert "libcurl4" in line
        assert find_marked_processes(run_marker_env) == []


def test_database_that_fails_to_start_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "mongo").mkdir()
    (data / "mongo" / "storage.bson").write_bytes(b"not what mongod wrote")
    with run_stack(data, env=run_marker_env, up=False) as stack:
        assert "mongod ended with exit code" in wait_for_error_line(stack)


def test_unreachable_mongodb_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    (port,) = free_ports(1)
    env = {**run_marker_env, "MONGODB_URI": f"mongodb://me:hidden@{HOST}:{port}/"}
    with run_stack(tmp_path / "data", env=env, up=False) as stack:
        line = wait_for_error_line(stack)
        assert "the MongoDB of MONGODB_URI does not respond" in line
        assert "hidden" not in line


def test_service_that_fails_to_start_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_stack(tmp_path / "data", env={**run_marker_env, "GRIDCAST_LOG_LEVEL": "chatty"}, up=False) as stack:
        assert "-1 ended with exit code 1" in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []


def test_invalid_arguments_are_refused(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_stack(tmp_path / "data", "--sockets", "0", env=run_marker_env, up=False) as stack:
        assert stack.process.wait(30) == 2
        assert "'0' is not a number from 1 to 16" in stack.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="process groups are looked up in /proc")
def test_ctrl_c_at_the_terminal_reaches_the_runner_only(stack: Stack) -> None:
    group = os.getpgid(stack.process.pid)
    assert group not in {os.getpgid(pid) for pid in stack.pids.values()}
