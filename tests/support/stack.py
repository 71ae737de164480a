"""Runs the whole stack with `python -m deploy.local`, as a user does.

Fixture `stack` for tests of the product, context managers `run_forked_stack` for those with settings of their own, and `run_stack`
for tests of the runner itself, which say what of the run may be forked.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path

import pytest

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT, die_with_parent_command
from tests.support import forking_runner
from tests.support.databases import TEST_STORE
from tests.support.processes import CAN_FORK, can_fork_with, show_log_on_failure
from tests.support.waiting import eventually

START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
SERVICE_NAMES = ("gateway", "upload-1", "stream-1", "stream-2", "socket-1", "socket-2", "live-1")
"""The service processes of a stack with its default settings."""
STACK_VARIABLES = ("PORT", "DATA", "STORE", "MONGODB_URI", "REDIS_URL")
"""Variables of the caller that would change the run."""


class Forked(Enum):
    """What of a run is forked from processes that have imported it (`tests.support.forking_runner`), where that can be done.

    SERVICES takes a fifth of the CPU time of a run, RUNNER a sixth. Databases are executed always.
    """

    NOTHING = auto()
    SERVICES = auto()
    RUNNER = auto()
    """And the services. The runner has the signal dispositions of the tree, and no variable of its own for /proc to show."""


class Stack:
    """A run of `python -m deploy.local` on a free port, with its output.

    `options` are command-line options, `env` is added to an environment without the STACK_VARIABLES.
    """

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        cwd: Path = PROJECT_ROOT,
        forked: Forked = Forked.NOTHING,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_ports(1)[0]
        self.url = f"http://{HOST}:{self.port}"
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._stdout_path = data_dir.with_name(f"{data_dir.name}-{self.port}.out")
        self._stderr_path = data_dir.with_name(f"{data_dir.name}-{self.port}.err")
        inherited = {k: v for k, v in os.environ.items() if k not in STACK_VARIABLES and not k.startswith("GRIDCAST_")}
        environment = {**inherited, **(env or {})}
        arguments = ["--port", str(self.port), "--data", str(data_dir), *options]
        self.process: subprocess.Popen[bytes]
        with self._stdout_path.open("wb") as out, self._stderr_path.open("wb") as err:
            if forked is Forked.RUNNER and can_fork_with(environment):
                self.process = forking_runner.start(environment, arguments, out.fileno(), err.fileno())
                return
            command = [sys.executable, "-m", "deploy.local", *arguments]
            if forked is Forked.SERVICES and CAN_FORK:
                command, environment = forking_runner.execution(environment, arguments)
            self.process = subprocess.Popen(
                die_with_parent_command(command),
                cwd=cwd,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._stdout_path.read_text("utf-8")

    @property
    def stderr(self) -> str:
        return self._stderr_path.read_text("utf-8")

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name: `mongod redis-server upload-1 stream-1 socket-1 socket-2 live-1 gateway`."""
        return {name: int(pid) for name, pid in re.findall(r"^(\S+) +ready .*?pid (\d+)", self.stdout, re.MULTILINE)}

    @property
    def urls(self) -> dict[str, str]:
        """URLs by name."""
        return dict(re.findall(r"^(\S+) +ready .*pid \d+ +(\S+)$", self.stdout, re.MULTILINE))

    @property
    def restart_lines(self) -> list[str]:
        """What the runner has said about children that ended."""
        return [line for line in self.stdout.splitlines() if "it is restarted" in line]

    def wait_until_ready(self) -> None:
        """Wait until the runner has printed the address. Raises AssertionError where it exits before."""

        def up() -> bool:
            return self.stdout.endswith(f"{self.url}\n") or self.process.poll() is not None

        eventually(up, START_TIMEOUT, "the stack is up")
        assert self.process.poll() is None, f"the runner ended: {self.stderr}"

    def delete_data(self) -> None:
        """Delete the 300 MB of MongoDB data that pytest would keep for three sessions; the logs stay."""
        shutil.rmtree(self.data_dir / "mongo", ignore_errors=True)

    def terminate(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(STOP_TIMEOUT)


@contextlib.contextmanager
def run_stack(
    data_dir: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    up: bool = True,
    cwd: Path = PROJECT_ROOT,
    forked: Forked = Forked.NOTHING,
) -> Iterator[Stack]:
    """A run of the stack; `up=False` does not wait for it. `cwd` is the checkout whose code is run."""
    stack = Stack(data_dir, *options, env=env, port=port, cwd=cwd, forked=forked)
    try:
        if up:
            stack.wait_until_ready()
        yield stack
    finally:
        stack.terminate()


def run_forked_stack(
    data_dir: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    up: bool = True,
    forked: Forked = Forked.RUNNER,
) -> contextlib.AbstractContextManager[Stack]:
    """A run for tests of the product. It takes a sixth of the CPU time of `run_stack`."""
    return run_stack(data_dir, *options, env=env, port=port, up=up, forked=forked)


@contextlib.contextmanager
def run_shared_stack(data_dir: Path, store: str) -> Iterator[Stack]:
    """A run with two stream and two socket replicas, which must end by itself with no process restarted."""
    with run_forked_stack(data_dir, "--store", store, "--sockets", "2", "--streams", "2") as stack:
        with contextlib.ExitStack() as shown:
            for name in sorted(stack.pids.keys() - {"mongod", "redis-server"}):
                shown.enter_context(show_log_on_failure(stack.log_dir / f"{name}.log", f"the stack's {name}"))
            yield stack
        assert stack.terminate() == 0, stack.stderr
        assert stack.restart_lines == [], "a process ended by itself"
        stack.delete_data()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack that the session shares, with the store of TEST_STORE. Do not stop its processes."""
    with run_shared_stack(tmp_path_factory.mktemp("stack") / "data", TEST_STORE) as stack:
        yield stack
