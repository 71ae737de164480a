"""Runs services as processes on free ports, by module name as in production; the module is imported once (`fork_server`).

Fixture `start_service` for one test, context manager `run_service` for fixtures of a wider scope, `run_module` for commands. The
end of the log of every service that still runs is shown with a failed test.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from deploy.local import processes
from deploy.local.log_tail import tail
from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT, Child, Program
from deploy.local.programs import readiness_error
from tests.support.fork_server import ForkedProcess, ForkServer, ForkTree, connect_to_tree

READY_TIMEOUT = 30.0
LOG_TAIL_BYTES = 4000

_logs_to_show: dict[Path, str] = {}
"""The log files to show with a failed test, and the names to show them under."""


class ForkedChild(Child):
    """A child that is forked from a process which has imported its module instead of executed."""

    def _start_process(self, output: BinaryIO) -> subprocess.Popen[bytes]:
        return fork_program(self.program, output)


def fork_program(program: Program, output: BinaryIO) -> ForkedProcess:
    """Fork a program of which the command ends with its module."""
    environment = program.environment or {}
    module = program.command[-1]
    server = fork_servers.get(module, late_imports(module, environment))
    return server.start(environment, output.fileno())


class ForkServers:
    """The fork servers of this process, which stay until its end. A worker finds them in the tree of the run."""

    def __init__(self) -> None:
        self._tree: ForkTree | None = None
        self._connection: socket.socket | None = None
        self._address = ""
        self._servers: dict[tuple[str, ...], ForkServer] = {}

    def get(self, module: str, packages: Sequence[str] = ()) -> ForkServer:
        """The server of a module with these packages."""
        key = (module, *packages)
        if key not in self._servers:
            self._servers[key] = ForkServer(self._connection or self.tree.connection, module, packages)
        return self._servers[key]

    @property
    def address(self) -> str:
        """The address of the tree that this process uses."""
        return self._address or self.tree.address

    @property
    def tree(self) -> ForkTree:
        """That of this process; it begins with its first use."""
        if self._tree is None:
            self._tree = ForkTree()
        return self._tree

    def share(self, address: str) -> None:
        """Use the tree of another process."""
        self._address, self._connection = address, connect_to_tree(address)

    def close(self) -> None:
        """Kill what this process has started, and end its tree."""
        while self._servers:
            self._servers.popitem()[1].close()
        if self._connection is not None:
            self._connection.close()
        if self._tree is not None:
            self._tree.close()
        self._tree = self._connection = None


fork_servers = ForkServers()

SERVER_IMPORTS = ("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "encodings.idna")
"""What uvicorn imports when it starts."""


def late_imports(module: str, env: Mapping[str, str]) -> list[str]:
    """The modules, and packages of modules, that a service imports when it starts and not before, as its settings need them."""
    packages = [*SERVER_IMPORTS]
    store = env.get("GRIDCAST_STORE", "gridfs")
    if module in ("services.upload", "services.stream", "services.live") and store in ("gridfs", "files"):
        packages.append(f"services.common.store.{store}")
        if store == "gridfs" and env.get("GRIDCAST_MONGODB_DRIVER", "motor") == "motor":
            packages.append("motor.motor_asyncio")
    if module != "gateway" and env.get("GRIDCAST_AUTH", "off") != "off":
        packages.append("services.common.auth")
    return packages


CAN_FORK = hasattr(os, "pidfd_open") and "COVERAGE_PROCESS_CONFIG" not in os.environ
"""Not where the coverage of each process is measured, and on Linux alone."""


def child_class(env: Mapping[str, str], wrapper: Sequence[str]) -> type[Child]:
    """How to start a service: a fork where its own variables alone differ."""
    return ForkedChild if CAN_FORK and not wrapper and all(name.startswith("GRIDCAST_") for name in env) else Child


def can_fork_with(env: Mapping[str, str]) -> bool:
    """Whether a fork is what a module with this whole environment would be."""
    return CAN_FORK and all(env.get(name) == os.environ.get(name) for name in ("PYTHONPATH", "LD_PRELOAD"))


def start_module(
    module: str, *arguments: str, env: Mapping[str, str], output: Path, packages: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start what `run_module` runs, for tests that kill it. Its output and errors are appended to a file."""
    with output.open("ab") as file:
        if can_fork_with(env):
            return fork_servers.get(module, packages).start(env, file.fileno(), *arguments)
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=PROJECT_ROOT, env=env, stdout=file, stderr=file
        )


def run_module(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path = PROJECT_ROOT,
    text: str = "",
    packages: Sequence[str] = (),
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENT...` as `subprocess.run` would, but as a fork: for commands that tests run many times.

    `env` is the whole environment, `text` what comes through a pipe to the standard input, at most 64 KiB. `packages` is of a fork
    server. A command with variables of the interpreter or the linker of its own is executed.
    """
    if not can_fork_with(env):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            command, cwd=cwd, env=env, input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
    with contextlib.ExitStack() as files:
        output, errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        reading, writing = os.pipe()
        with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
            pipe.write(text)
            process = fork_servers.get(module, packages).start(
                env, output.fileno(), *arguments, errors=errors.fileno(), standard_input=reading, cwd=cwd
            )
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode("utf-8", "surrogateescape"))
    return subprocess.CompletedProcess([module, *arguments], code, *said)


class ServiceProcess:
    """A running service: its port, URL, process id and log."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port
        self.url = f"http://{HOST}:{port}"

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def log(self) -> str:
        """Everything it has logged so far."""
        return self.child.log_path.read_text("utf-8", "replace")

    def is_ready(self) -> bool:
        return readiness_error(self.port) is None

    def terminate(self) -> None:
        """Send SIGTERM, and SIGKILL if it does not exit in time."""
        processes.stop_children([self.child])


StartService = Callable[..., ServiceProcess]


@contextlib.contextmanager
def show_log_on_failure(log: Path, name: str) -> Iterator[None]:
    """Show the end of this log with every test that fails inside the block."""
    _logs_to_show[log] = name
    try:
        yield
    finally:
        _logs_to_show.pop(log, None)


@contextlib.contextmanager
def run_service(
    module: str,
    log_dir: Path,
    env: Mapping[str, str],
    *,
    port: int | None = None,
    ready: bool = True,
    wrapper: Sequence[str] = (),
    may_fork: bool = True,
) -> Iterator[ServiceProcess]:
    """Run `python -m MODULE` with `env` and without the GRIDCAST_* variables of the test process, as the arguments of `wrapper`.

    `ready=False` yields before /readyz answers 200. With `may_fork=False` the process has addresses of its own; forks have those of
    the process that they are forked from. The log goes to a file in `log_dir`.
    """
    port = port or free_ports(1)[0]
    log = log_dir / f"{module}-{port}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")}
    program = Program(
        name=module,
        kind=module,
        command=(*wrapper, sys.executable, "-m", module),
        url=f"http://{HOST}:{port}",
        readiness_error=lambda: readiness_error(port),
        environment={
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "GRIDCAST_HOST": HOST,
            "GRIDCAST_PORT": str(port),
            "GRIDCAST_SHUTDOWN_TIMEOUT": "2",
            **env,
        },
    )
    with show_log_on_failure(log, module):
        child = (child_class(env, wrapper) if may_fork else Child)(program, log)
        try:
            for _ in processes.wait_until_ready([child] if ready else [], READY_TIMEOUT, time.sleep):
                pass
            yield ServiceProcess(child, port)
        finally:
            processes.stop_children([child])


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """A function `start(module, port=None, ready=True, **env) -> ServiceProcess`. All services stop after the test."""
    with contextlib.ExitStack() as running:

        def start(module: str, *, port: int | None = None, ready: bool = True, **env: str) -> ServiceProcess:
            return running.enter_context(run_service(module, tmp_path, env, port=port, ready=ready))

        yield start


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker the tree of this process."""
    if CAN_FORK:
        node.workerinput["fork_tree"] = fork_servers.tree.address


def pytest_configure(config: pytest.Config) -> None:
    """Use the tree of the run."""
    if address := getattr(config, "workerinput", {}).get("fork_tree"):
        fork_servers.share(address)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """After the fixtures of the session, which may hold services."""
    fork_servers.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        ends = {name: tail(log, LOG_TAIL_BYTES) for log, name in _logs_to_show.items()}
        report.sections += [(f"end of the log of {name}", end) for name, end in ends.items() if end]
    return report
