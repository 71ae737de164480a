"""One child process: how it is started, when it is ready, how it ends. Knows no service and no server.

A child has a session of its own, so that Ctrl-C at the terminal reaches the runner only and the order of the stop is
the runner's; the leash kills it when the runner dies without a word. Children must be started from the main thread:
Linux takes the end of the starting thread for the end of the parent.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local import die_with_parent
from deploy.local.errors import StackError
from deploy.local.log_tail import last_error_line

PROJECT_ROOT = Path(__file__).resolve().parents[2]
POLL_INTERVAL = 0.05


@dataclass(frozen=True)
class Program:
    """What to start, and how to see whether it answers."""

    name: str
    kind: str
    command: tuple[str, ...]
    url: str
    readiness_error: Callable[[], str | None]
    """Why it does not answer yet; None when it does."""
    environment: Mapping[str, str] | None = None
    inherited_fds: tuple[int, ...] = ()
    """Descriptors that stay open as long as the program lives."""
    stop_timeout: float = 15.0
    """Seconds that it gets to stop by itself."""
    install_hint: str = ""
    """What to install when the system cannot load it."""


class Child:
    """A program that has been started. Its output is appended to `log`."""

    def __init__(self, program: Program, log_path: Path) -> None:
        self.program = program
        self.log_path = log_path
        with log_path.open("ab") as output:
            self._process = subprocess.Popen(
                die_with_parent_command(program.command),
                env=program.environment,
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=program.inherited_fds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send_signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def exit_summary(self) -> str:
        """How it ended and what it said last, in one line."""
        code = self._process.returncode
        said = last_error_line(self.log_path)
        reason = f": {said}" if said else ""
        if code == die_with_parent.EXIT_EXEC_FAILED:
            hint = self.program.install_hint
            return f"{self.program.name} cannot be started{reason}{f' ({hint})' if hint else ''}"
        end = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        return f"{self.program.name} {end}{reason}"


def die_with_parent_command(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]


def wait_until_ready(children: Sequence[Child], timeout: float, pause: Callable[[float], object]) -> Iterator[Child]:
    """The children in the order in which they begin to answer.

    Raises Failure when one ends or does not answer in time. `pause` waits between two looks and may raise.
    """
    deadline = time.monotonic() + timeout
    waiting = list(children)
    while waiting:
        for child in tuple(waiting):
            obstacle = child.program.readiness_error()
            if not child.running:
                raise StackError(child.exit_summary())
            if obstacle is None:
                waiting.remove(child)
                yield child
            elif time.monotonic() > deadline:
                raise StackError(f"{child.program.name} is not ready after {timeout:g} s: {obstacle}")
        if waiting:
            pause(POLL_INTERVAL)


def stop_children(children: Sequence[Child], force: Callable[[], bool] = lambda: False) -> list[str]:
    """Ends the children together: SIGTERM, a time of grace, SIGKILL. Gives the names of those that had to be killed."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + max((child.program.stop_timeout for child in children), default=0.0)
    while any(child.running for child in children) and time.monotonic() < deadline and not force():
        next(child for child in children if child.running).wait(POLL_INTERVAL)
    killed = [child for child in children if child.running]
    for child in killed:
        child.send_signal(signal.SIGKILL)
    for child in children:
        child.wait(10.0)
    return [child.program.name for child in killed]
