"""The local run: it starts, keeps its data, reports a failure in one line, and leaves no process.

What a run hands on to its processes, and how they end with it, is shown by runs that are executed as users do; restarts, messages
and exit codes by the same runner with services that are forked (`Forked`), which takes a fifth of the CPU time.
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy.local.binaries import MONGOD, REDIS_SERVER
from deploy.local.ports import HOST, free_ports
from tests.conftest import CLIENT_SOURCE
from tests.support.databases import TEST_STORE
from tests.support.programs import require_program
from tests.support.stack import Forked, Stack, run_forked_stack, run_stack
from tests.support.waiting import eventually

RUN_MARKER_VARIABLE = "TEST_RUN_MARK"


@contextlib.contextmanager
def mark_runs(folder: Path) -> Iterator[dict[str, str]]:
    """A variable that every process of a run inherits, to find all of them by. None may be left."""
    env = {RUN_MARKER_VARIABLE: str(folder)}
    yield env
    left = find_marked_processes(env)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def run_marker_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variable of `mark_runs` for the runs of one test, whose data are below `tmp_path`."""
    with mark_runs(tmp_path) as env:
        yield env
        shutil.rmtree(tmp_path / "data" / "mongo", ignore_errors=True)


def find_marked_processes(env: dict[str, str]) -> list[int]:
    """The processes of a run; redis-server, which overwrites its environment, by its working directory, forks by their output."""
    folder = env[RUN_MARKER_VARIABLE]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            places = [(process / "cwd").readlink()]
        except OSError:
            continue
        with contextlib.suppress(OSError):  # it may have closed its output
            places.append((process / "fd/1").readlink())
        inside = any(place.is_relative_to(folder) for place in places)
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


@dataclass(frozen=True)
class TwoRuns:
    """What was seen of two runs, one after the other, on a folder that had files of other programs."""

    data: Path
    content: bytes
    """What the first one stored."""
    found: httpx.Response
    """The answer of the second one to a request for it."""
    urls: list[dict[str, str]]
    first_log_lines: list[str]
    """Of stream-1."""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRuns]:
    """The others' files: a log of another name, one of our name, a directory of our name's form, a lock."""
    folder = tmp_path_factory.mktemp("two-runs")
    data = folder / "data"
    logs = data / "logs"
    (logs / "archive.log").mkdir(parents=True)
    (logs / "application.log").write_text("years of it\n")
    (logs / "gateway.log").write_text("another gateway's\n")
    (data / "lock").write_text("1234\n")
    content = os.urandom(700_000)
    urls, first_log_lines = [], []

    def note(stack: Stack) -> None:
        urls.append(stack.urls)
        assert stack.terminate() == 0
        first_log_lines.append((logs / "stream-1.log").read_text().partition("\n")[0])

    with mark_runs(folder) as env:
        with run_forked_stack(data, env=env) as stack:
            created = httpx.post(
                f"{stack.url}/file/upload", files={"file": ("v.webm", content)}, data={"folder": "demo"}
            )
            assert created.status_code == 201, created.text
            note(stack)
        with run_forked_stack(data, env=env) as stack:
            found = httpx.get(f"{stack.url}/file/stream", params={"filename": "v.webm", "folder": "demo"})
            note(stack)
        yield TwoRuns(data, content, found, urls, first_log_lines)
    shutil.rmtree(data / "mongo", ignore_errors=True)


def test_data_survive_a_restart(two_runs: TwoRuns) -> None:
    assert two_runs.found.status_code == 200
    assert two_runs.found.content == two_runs.content


@contextlib.contextmanager
def sighup_disposition(disposition: signal.Handlers) -> Iterator[None]:
    """Children that are started in the block inherit this disposition, however the tests were started."""
    before = signal.signal(signal.SIGHUP, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@dataclass(frozen=True)
class StoppedRun:
    """What was seen of a run with two replicas of most services, and of its end by a signal."""

    pids: set[int]
    """Those that it has printed, and its own."""
    marked: set[int]
    runner_group: int
    child_groups: set[int]
    code: int
    left: list[int]
    """The processes that were there when it had ended."""
    stopped: list[str]
    errors: str


def stop_run(data: Path, env: dict[str, str], number: signal.Signals, forked: Forked) -> StoppedRun:
    options = ("--sockets", "2", "--streams", "2", "--uploads", "2")
    with (
        sighup_disposition(signal.SIG_DFL),
        run_stack(data, *options, env=env, forked=forked) as stack,
    ):
        children = set(stack.pids.values())
        marked = set(find_marked_processes(env))
        runner_group, child_groups = os.getpgid(stack.process.pid), {os.getpgid(pid) for pid in children}
        code = stack.terminate(number)
        left = find_marked_processes(env)
    stopped = [line.split()[0] for line in stack.stdout.splitlines() if line.endswith(" stopped")]
    pids = {*children, stack.process.pid}
    return StoppedRun(pids, marked, runner_group, child_groups, code, left, stopped, stack.stderr)


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> StoppedRun:
    """A run as users have it, all of whose processes are executed, ended by Ctrl-C."""
    folder = tmp_path_factory.mktemp("interrupted")
    with mark_runs(folder) as env:
        run = stop_run(folder / "data", env, signal.SIGINT, Forked.NOTHING)
    shutil.rmtree(folder / "data/mongo", ignore_errors=True)
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_children_in_reverse_order(
    request: pytest.FixtureRequest, tmp_path: Path, run_marker_env: dict[str, str], number: signal.Signals
) -> None:
    run: StoppedRun = (
        request.getfixturevalue("interrupted_run")
        if number == signal.SIGINT
        else stop_run(tmp_path / "data", run_marker_env, number, Forked.SERVICES)
    )
    assert run.pids == run.marked
    assert run.code == 0
    assert run.left == []
    assert run.stopped == ["gateway", "live", "socket", "stream", "upload", "redis-server", "mongod"]
    assert run.errors == ""


def test_run_under_nohup_outlives_its_terminal(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with (
        sighup_disposition(signal.SIG_IGN),
        run_stack(tmp_path / "data", "--store", "files", env=run_marker_env, forked=Forked.SERVICES) as stack,
    ):
        stack.process.send_signal(signal.SIGHUP)
        # A child that ends wakes the supervisor: what it does then comes after the first signal.
        os.kill(stack.pids["stream-1"], signal.SIGKILL)
        eventually(lambda: "stream-1 was ended by SIGKILL" in stack.stdout)
        assert stack.terminate() == 0


def test_killed_runner_leaves_no_child_and_no_lock(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    with run_stack(data, env=run_marker_env) as stack:
        assert len(stack.pids) == 7
        stack.process.kill()
        stack.process.wait(10)
        with run_forked_stack(data, env=run_marker_env) as again:
            assert not set(stack.pids.values()) & set(find_marked_processes(run_marker_env))
            assert again.terminate() == 0


def test_signal_during_start_stops_the_started_children(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(tmp_path / "data", env=run_marker_env, up=False) as stack:
        eventually(lambda: "mongod" in stack.pids)
        assert stack.terminate(signal.SIGINT) == 0
        assert find_marked_processes(run_marker_env) == []


def test_second_interrupt_kills_hanging_children(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(tmp_path / "data", env=run_marker_env) as stack:
        os.kill(stack.pids["stream-1"], signal.SIGSTOP)
        stack.process.send_signal(signal.SIGINT)
        eventually(lambda: "socket        stopped" in stack.stdout)
        assert stack.terminate(signal.SIGINT) == 1
        assert "killed after the stop timeout: stream-1" in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []


def wait_for_restart(stack: Stack, name: str, old_pid: int) -> None:
    eventually(lambda: stack.pids[name] != old_pid, 30.0, f"{name} is ready again")


def test_killed_children_are_restarted(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    """Each on its port, and with its data."""
    with run_forked_stack(tmp_path / "data", env=run_marker_env) as stack:
        httpx.put(f"{stack.url}/file/stream?filename=a", content=b"kept").raise_for_status()
        for name in ("mongod", "redis-server", "stream-1", "gateway"):
            before, urls = stack.pids, stack.urls
            os.kill(before[name], signal.SIGKILL)
            wait_for_restart(stack, name, before[name])
            assert f"{name} was ended by SIGKILL; it is restarted (1 of at most 5 times in 60 s)\n" in stack.stdout
            assert stack.urls == urls
            assert {**stack.pids, name: 0} == {**before, name: 0}, "the others went on"
            eventually(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 30.0, "all are ready")
            assert httpx.get(f"{stack.url}/file/stream?filename=a").content == b"kept"
        assert stack.terminate() == 0
        assert stack.stderr == ""


def test_child_that_ends_too_often_ends_the_run(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(tmp_path / "data", "--store", "files", env=run_marker_env) as stack:

        def ended() -> bool:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stack.pids["stream-1"], signal.SIGKILL)
            return stack.process.poll() is not None

        eventually(ended, 60.0, "the run has ended")
        assert "stream-1 was ended by SIGKILL; it ended 6 times within 60 s" in wait_for_error_line(stack)
        assert stack.stdout.count("it is restarted") == 5
        assert find_marked_processes(run_marker_env) == []


def test_databases_keep_their_ports(two_runs: TwoRuns) -> None:
    """Save one that is taken."""
    first, second = two_runs.urls
    for name in ("mongod", "redis-server"):
        assert first[name] == second[name]
    port = int(first["redis-server"].rpartition(":")[2].partition("/")[0])
    with closing(socket.create_server((HOST, port))), run_forked_stack(two_runs.data) as stack:
        assert stack.urls["mongod"] == first["mongod"]
        assert stack.urls["redis-server"] != first["redis-server"]
        assert stack.terminate() == 0


def test_occupied_port_is_reported_before_anything_starts(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    (port,) = free_ports(1)
    with (
        closing(socket.create_server((HOST, port))),
        run_forked_stack(tmp_path / "data", env=run_marker_env, port=port, up=False) as stack,
    ):
        assert f"port {port} is already taken" in wait_for_error_line(stack)
        assert stack.stdout == ""


def test_second_run_on_one_data_dir_is_refused(stack: Stack, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(stack.data_dir, "--store", TEST_STORE, env=run_marker_env, up=False) as second:
        assert f"{stack.data_dir} is in use by another run" in wait_for_error_line(second)
        assert httpx.get(f"{stack.url}/readyz").status_code == 200


def test_files_of_others_in_the_data_dir_are_kept(two_runs: TwoRuns) -> None:
    """The logs that a run made are replaced."""
    logs = two_runs.data / "logs"
    assert (logs / "application.log").read_text() == "years of it\n"
    assert (logs / "gateway.log").read_text().startswith("another gateway's\n")
    assert (logs / "archive.log").is_dir()
    assert (two_runs.data / "lock").read_text() == "1234\n"
    first, second = two_runs.first_log_lines
    assert first != second


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("mongo/notes.txt", "has files that no mongod made"),
        ("gridcast.json", "is not a record of Gridcast"),
        ("logs/mongod.log/file", "cannot be written"),
    ],
)
def test_data_dir_of_another_program_is_refused(
    tmp_path: Path, run_marker_env: dict[str, str], path: str, reason: str
) -> None:
    foreign = tmp_path / "data" / path
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"logs": ["../../other.log"], "ports": {}}')
    with run_forked_stack(tmp_path / "data", env=run_marker_env, up=False) as stack:
        assert reason in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []
    assert foreign.exists()


def test_uncreatable_data_dir_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    data.write_text("in the way")
    with run_forked_stack(data, env=run_marker_env, up=False) as stack:
        assert "cannot be used" in wait_for_error_line(stack)


def env_without_wheels(folder: Path, *distributions: str) -> dict[str, str]:
    """Variables with which no program is found in these wheels: they are found by their distributions' names."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "original = metadata.distribution\n"
        "def distribution(name):\n"
        f"    if name in {distributions!r}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return original(name)\n"
        "metadata.distribution = distribution\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{CLIENT_SOURCE}"}


def test_all_missing_programs_are_reported_at_once(
    tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path
) -> None:
    nothing = env_without_wheels(tmp_path / "nothing", MONGOD.distribution, REDIS_SERVER.distribution)
    env = {**run_marker_env, **nothing, "PATH": str(program_dir)}
    with run_stack(tmp_path / "data", "--store", "gridfs", env=env, up=False) as stack:
        line = wait_for_error_line(stack)
        assert "mongod not found: install MongoDB 6 or newer, set MONGODB_URI, or choose the files store" in line
        assert "; redis-server not found: install Redis 6.2 or newer or Valkey" in line
        assert " ready " not in stack.stdout, "nothing was started"
    with run_stack(tmp_path / "other", env=env, up=False) as stack:
        assert wait_for_error_line(stack).startswith("gridcast: redis-server not found: "), (
            "the files store needs no mongod"
        )


def test_the_ingest_needs_ffmpeg(tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path) -> None:
    env = {**run_marker_env, "PATH": str(program_dir)}
    with run_forked_stack(tmp_path / "data", "--ingest", env=env, up=False) as stack:
        assert wait_for_error_line(stack) == "gridcast: INGEST=1 needs ffmpeg, which is not installed"
        assert " ready " not in stack.stdout, "nothing was started"


def test_the_ingest_is_restarted_with_its_key(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    require_program("ffmpeg", "ffmpeg")
    (port,) = free_ports(1)
    env = {**run_marker_env, "INGEST_RTMP_PORT": str(port)}
    with run_forked_stack(tmp_path / "data", "--store", "files", "--ingest", env=env) as stack:
        eventually(lambda: "ingest" in stack.urls, 30.0, "it is ready; the address of the gateway is printed before")
        key = (tmp_path / "data/ingest_key").read_text("ascii")
        assert stack.urls["ingest"] == f"rtmp://127.0.0.1:{port}/live/{key}"
        before = stack.pids["ingest"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: stack.pids["ingest"] != before, 30.0, "it is ready again")
        assert stack.terminate() == 0
        assert find_marked_processes(run_marker_env) == []


def store_line(stack: Stack) -> str:
    return stack.stdout.splitlines()[0]


@pytest.mark.parametrize("mongod", ["missing", "without a library"])
def test_files_store_where_no_mongod_can_be_had(
    tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path, mongod: str
) -> None:
    """It says so, starts no mongod, and stays with the files when a mongod can be had later."""
    env = {**run_marker_env, **env_without_wheels(tmp_path / "nothing", MONGOD.distribution)}
    reason = "mongod was not found"
    if mongod != "missing":
        error = "mongod: error while loading shared libraries: libcurl.so.4"
        write_script(program_dir / "mongod", f'echo "{error}" >&2; exit 127')
        env |= {"PATH": f"{program_dir}{os.pathsep}{os.environ['PATH']}"}
        reason = f"mongod cannot run here ({error})"
    data = tmp_path / "data"
    content = os.urandom(700_000)
    with run_stack(data, env=env, forked=Forked.SERVICES) as stack:
        assert store_line(stack) == f"store: files, because {reason}; STORE=gridfs chooses the other"
        assert "mongod" not in stack.pids
        httpx.put(f"{stack.url}/file/stream?filename=a", content=content).raise_for_status()
        found = httpx.get(f"{stack.url}/file/stream?filename=a", headers={"Range": "bytes=262000-600000"})
        assert (found.status_code, found.content) == (206, content[262000:600001])
        assert stack.terminate() == 0
        stopped = [line.split()[0] for line in stack.stdout.splitlines() if line.endswith(" stopped")]
        assert stopped == ["gateway", "live", "socket", "stream", "upload", "redis-server"]
        assert stack.stderr == ""
    with run_forked_stack(data, env=run_marker_env) as stack:
        assert store_line(stack) == f"store: files, because {data / 'files'} has data; STORE=gridfs chooses the other"
        assert httpx.get(f"{stack.url}/file/stream?filename=a").content == content


def test_files_of_others_are_not_taken_for_a_store(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    (tmp_path / "data" / "files").mkdir(parents=True)
    (tmp_path / "data" / "files" / "mine.txt").write_text("mine")
    with run_forked_stack(tmp_path / "data", "--store", "files", env=run_marker_env, up=False) as stack:
        assert "files that no files store made" in wait_for_error_line(stack)


def test_program_with_a_missing_library_is_reported(
    tmp_path: Path, run_marker_env: dict[str, str], program_dir: Path
) -> None:
    write_script(
        program_dir / "mongod", 'echo "mongod: error while loading shared libraries: libcurl.so.4" >&2; exit 127'
    )
    env = {**run_marker_env, "PATH": f"{program_dir}:{os.environ['PATH']}"}
    with run_forked_stack(tmp_path / "data", "--store", "gridfs", env=env, up=False) as stack:
        line = wait_for_error_line(stack)
        assert "mongod cannot be started: mongod: error while loading shared libraries: libcurl.so.4" in line
        assert "libcurl4" in line
        assert find_marked_processes(run_marker_env) == []


def test_database_that_fails_to_start_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "mongo").mkdir()
    (data / "mongo" / "storage.bson").write_bytes(b"not what mongod wrote")
    with run_forked_stack(data, env=run_marker_env, up=False) as stack:
        assert "mongod ended with exit code" in wait_for_error_line(stack)


def test_unreachable_mongodb_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    (port,) = free_ports(1)
    env = {**run_marker_env, "MONGODB_URI": f"mongodb://me:hidden@{HOST}:{port}/"}
    with run_forked_stack(tmp_path / "data", env=env, up=False) as stack:
        line = wait_for_error_line(stack)
        assert "the MongoDB of MONGODB_URI does not respond" in line
        assert "hidden" not in line


def test_service_that_fails_to_start_is_reported(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(tmp_path / "data", env={**run_marker_env, "GRIDCAST_LOG_LEVEL": "chatty"}, up=False) as stack:
        assert "-1 ended with exit code 1" in wait_for_error_line(stack)
        assert find_marked_processes(run_marker_env) == []


def test_invalid_arguments_are_refused(tmp_path: Path, run_marker_env: dict[str, str]) -> None:
    with run_forked_stack(tmp_path / "data", "--sockets", "0", env=run_marker_env, up=False) as stack:
        assert stack.process.wait(30) == 2
        assert "'0' is not a number from 1 to 16" in stack.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="process groups are looked up in /proc")
def test_ctrl_c_at_the_terminal_reaches_the_runner_only(interrupted_run: StoppedRun) -> None:
    assert len(interrupted_run.child_groups) == len(interrupted_run.pids) - 1
    assert interrupted_run.runner_group not in interrupted_run.child_groups
