"""Starts child processes, waits until they are ready, and stops them.

Each child runs in its own session: Ctrl-C at the terminal reaches the supervisor only, which stops the children in its own order.
`die_with_parent` kills the children of a supervisor that was killed. Children must be started from the main thread: for Linux the
parent has died when the thread that started the child ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deploy.local import die_with_parent
from deploy.local.errors import StackError
from deploy.local.log_tail import last_error_line

PROJECT_ROOT = Path(__file__).resolve().parents[2]
POLL_INTERVAL = 0.05
"""Seconds between checks of readiness or of the end of a child."""


@dataclass(frozen=True)
class Program:
    """A program to start, with its readiness check."""

    name: str
    kind: str
    command: tuple[str, ...]
    url: str
    readiness_error: Callable[[], str | None]
    """The reason why it is not ready; None if it is."""
    environment: Mapping[str, str] | None = None
    inherited_fds: tuple[int, ...] = ()
    """Descriptors that stay open until the program ends."""
    stop_timeout: float = 15.0
    """Seconds between SIGTERM and SIGKILL."""
    install_hint: str = ""
    """What to install if the dynamic linker cannot load it."""


class Child:
    """A started program. Its output is appended to `log_path`. Raises StackError where the log cannot be written."""

    def __init__(self, program: Program, log_path: Path) -> None:
        self.program = program
        self.log_path = log_path
        self._log_offset, self._process = self._start()

    def restart(self) -> None:
        """Start the program again after it has ended."""
        self._log_offset, self._process = self._start()

    def _start(self) -> tuple[int, "subprocess.Popen[bytes]"]:
        try:
            output = self.log_path.open("ab")
        except OSError as error:
            raise StackError(f"the log {self.log_path} cannot be written: {error.strerror}") from error
        with output:
            return output.tell(), self._start_process(output)

    def _start_process(self, output: BinaryIO) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            die_with_parent_command(self.program.command),
            env=self.program.environment,
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=self.program.inherited_fds,
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
        """Wait for the end. False if the child still runs after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ready_line(self, seconds: float) -> str:
        """The line for the user once it is ready, `seconds` after its start."""
        return f"{self.program.name:<13} ready in {seconds:4.1f} s  pid {self.pid:<8} {self.program.url}"

    def exit_summary(self) -> str:
        """The exit code or signal and the last error of the log, in one line."""
        code = self._process.returncode
        # What a program that a signal ended had logged last is rarely the reason.
        last_error = last_error_line(self.log_path, self._log_offset, or_last=code >= 0)
        reason = f": {last_error}" if last_error else ""
        if code == die_with_parent.EXIT_EXEC_FAILED:
            hint = self.program.install_hint
            return f"{self.program.name} cannot be started{reason}{f' ({hint})' if hint else ''}"
        end = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        return f"{self.program.name} {end}{reason}"


def die_with_parent_command(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` by way of die_with_parent."""
    return [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]


def wait_until_ready(children: Sequence[Child], timeout: float, pause: Callable[[float], object]) -> Iterator[Child]:
    """Yield the children in the order in which they become ready.

    Raises StackError when one ends or is not ready within `timeout` seconds. `pause` waits between two checks and may raise.
    """
    deadline = time.monotonic() + timeout
    waiting = list(children)
    while waiting:
        for child in tuple(waiting):
            error = child.program.readiness_error()
            if not child.running:
                raise StackError(child.exit_summary())
            if error is None:
                waiting.remove(child)
                yield child
            elif time.monotonic() > deadline:
                raise StackError(f"{child.program.name} is not ready after {timeout:g} s: {error}")
        if waiting:
            pause(POLL_INTERVAL)


def stop_children(children: Sequence[Child], force: Callable[[], bool] = lambda: False) -> list[str]:
    """Send SIGTERM to all, and SIGKILL after the longest stop timeout or once `force()` is true. Returns the killed names."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + max((child.program.stop_timeout for child in children), default=0.0)
    # One look at each: a child may end between two.
    while (running := [child for child in children if child.running]) and time.monotonic() < deadline and not force():
        running[0].wait(POLL_INTERVAL)
    killed = [child for child in children if child.running]
    for child in killed:
        child.send_signal(signal.SIGKILL)
    for child in children:
        child.wait(10.0)
    return [child.program.name for child in killed]
