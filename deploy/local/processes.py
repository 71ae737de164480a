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

from deploy.local import leash
from deploy.local.failure import Failure
from deploy.local.lastwords import last_words

ROOT = Path(__file__).resolve().parents[2]
BEAT = 0.05


@dataclass(frozen=True)
class Program:
    """What to start, and how to see whether it answers."""

    name: str
    kind: str
    command: tuple[str, ...]
    address: str
    obstacle: Callable[[], str | None]
    """Why it does not answer yet; None when it does."""
    environment: Mapping[str, str] | None = None
    holds: tuple[int, ...] = ()
    """Descriptors that stay open as long as the program lives."""
    grace: float = 15.0
    """Seconds that it gets to stop by itself."""
    if_unstartable: str = ""
    """What to install when the system cannot load it."""


class Child:
    """A program that has been started. Its output is appended to `log`."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                leashed(program.command),
                env=program.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=program.holds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def obituary(self) -> str:
        """How it ended and what it said last, in one line."""
        code = self._process.returncode
        said = last_words(self.log)
        reason = f": {said}" if said else ""
        if code == leash.CANNOT_START:
            hint = self.program.if_unstartable
            return f"{self.program.name} cannot be started{reason}{f' ({hint})' if hint else ''}"
        end = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
        return f"{self.program.name} {end}{reason}"


def leashed(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]


def each_ready(children: Sequence[Child], within: float, pause: Callable[[float], object]) -> Iterator[Child]:
    """The children in the order in which they begin to answer.

    Raises Failure when one ends or does not answer in time. `pause` waits between two looks and may raise.
    """
    deadline = time.monotonic() + within
    waiting = list(children)
    while waiting:
        for child in tuple(waiting):
            obstacle = child.program.obstacle()
            if not child.running:
                raise Failure(child.obituary())
            if obstacle is None:
                waiting.remove(child)
                yield child
            elif time.monotonic() > deadline:
                raise Failure(f"{child.program.name} is not ready after {within:g} s: {obstacle}")
        if waiting:
            pause(BEAT)


def stop(children: Sequence[Child], hurry: Callable[[], bool] = lambda: False) -> list[str]:
    """Ends the children together: SIGTERM, a time of grace, SIGKILL. Gives the names of those that had to be killed."""
    for child in children:
        child.send(signal.SIGTERM)
    deadline = time.monotonic() + max((child.program.grace for child in children), default=0.0)
    while any(child.running for child in children) and time.monotonic() < deadline and not hurry():
        next(child for child in children if child.running).wait(BEAT)
    killed = [child for child in children if child.running]
    for child in killed:
        child.send(signal.SIGKILL)
    for child in children:
        child.wait(10.0)
    return [child.program.name for child in killed]
