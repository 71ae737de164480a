"""Fixtures: the whole stack, run as a user runs it, and the runner for tests of the runner itself."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT, die_with_parent_command
from tests.support.processes import showing
from tests.support.waiting import eventually

UP_WITHIN = 60.0
DOWN_WITHIN = 60.0
OF_THE_RUN = ("PORT", "DATA", "MONGODB_URI", "REDIS_URL")


class Stack:
    """`python -m deploy.local` on a free port, with what it printed."""

    def __init__(
        self, data: Path, *options: str, env: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        self.data = data
        self.port = port or free_ports(1)[0]
        self.url = f"http://{HOST}:{self.port}"
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self._out = data.with_name(f"{data.name}-{self.port}.out")
        self._err = data.with_name(f"{data.name}-{self.port}.err")
        inherited = {k: v for k, v in os.environ.items() if k not in OF_THE_RUN and not k.startswith("GRIDCAST_")}
        command = [sys.executable, "-m", "deploy.local", "--port", str(self.port), "--data", str(data), *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.runner = subprocess.Popen(
                die_with_parent_command(command),
                cwd=PROJECT_ROOT,
                env={**inherited, **(env or {})},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8")

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def pids(self) -> dict[str, int]:
        """The children by name: `mongod redis-server upload-1 stream-1 socket-1 socket-2 gateway`."""
        return {name: int(pid) for name, pid in re.findall(r"^(\S+) +ready .*?pid (\d+)", self.out, re.MULTILINE)}

    @property
    def addresses(self) -> dict[str, str]:
        """Where each child listens, by name."""
        return dict(re.findall(r"^(\S+) +ready .*pid \d+ +(\S+)$", self.out, re.MULTILINE))

    def wait_until_up(self) -> None:
        def up() -> bool:
            return self.out.endswith(f"{self.url}\n") or self.runner.poll() is not None

        eventually(up, UP_WITHIN, "the stack is up")
        assert self.runner.poll() is None, f"the runner ended: {self.err}"

    def forget_data(self) -> None:
        """Removes the 300 MB that pytest would keep for three sessions; the logs stay."""
        shutil.rmtree(self.data / "mongo", ignore_errors=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal, if it runs, and gives the exit code."""
        self.runner.send_signal(number)
        return self.runner.wait(DOWN_WITHIN)


@contextlib.contextmanager
def runner(
    data: Path, *options: str, env: Mapping[str, str] | None = None, port: int | None = None, up: bool = True
) -> Iterator[Stack]:
    """A run of the stack; `up=False` does not wait for it."""
    stack = Stack(data, *options, env=env, port=port)
    try:
        if up:
            stack.wait_until_up()
        yield stack
    finally:
        stack.end()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The session's stack with two stream and two socket replicas; leave its processes running."""
    with runner(tmp_path_factory.mktemp("stack") / "data", "--sockets", "2", "--streams", "2") as stack:
        with contextlib.ExitStack() as shown:
            for name in sorted(stack.pids.keys() - {"mongod", "redis-server"}):
                shown.enter_context(showing(stack.logs / f"{name}.log", f"the stack's {name}"))
            yield stack
        assert stack.end() == 0, stack.err
        stack.forget_data()
