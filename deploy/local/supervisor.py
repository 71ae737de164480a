"""Restarts children that ended, within a limit, and those whose sources changed."""

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import NoReturn

from deploy.local.errors import StackError
from deploy.local.processes import Child
from deploy.local.signals import SignalWaiter
from deploy.local.source_watcher import POLL_SECONDS, SourceWatcher

MAX_RESTARTS = 5
"""Restarts of one child within RESTART_WINDOW_SECONDS. A child that ends once more ends the run: restarts do not help it."""
RESTART_WINDOW_SECONDS = 60.0
FIRST_RESTART_DELAY_SECONDS = 0.2
"""Doubled with each further end in the window, so that a program that fails at its start does not take a whole core."""
READINESS_POLL_SECONDS = 0.2


class _State(Enum):
    READY = auto()
    STARTING = auto()
    """Runs, and is not ready yet."""
    DELAYED = auto()
    """Has ended, and is restarted after a delay."""
    STOPPING = auto()
    """Was sent SIGTERM because its sources changed."""
    BROKEN = auto()
    """Has ended, and is restarted when its sources change."""


class Supervisor:
    """Supervises running children until a signal or a child that cannot be kept running.

    Args:
        children: all children, ready.
        signals: wakes the supervisor; its `pause` raises StopRequested.
        report: prints a line for the user.
        watcher: names the kinds of children to restart because their sources changed; None: not watched.

    """

    def __init__(
        self,
        children: Sequence[Child],
        signals: SignalWaiter,
        report: Callable[[str], None],
        watcher: SourceWatcher | None = None,
    ) -> None:
        self._signals = signals
        self._watcher = watcher
        self._supervised = [_SupervisedChild(child, report, may_break=watcher is not None) for child in children]

    def run(self) -> NoReturn:
        """Never returns: raises StackError when a child ends too often, StopRequested after a stop signal."""
        while True:
            for one in self._supervised:
                one.step()
            for kind, path in (self._watcher.poll() if self._watcher is not None else {}).items():
                for one in self._supervised:
                    if one.kind == kind:
                        one.reload(path)
            self._signals.pause(self._seconds_until_next_step())

    def _seconds_until_next_step(self) -> float | None:
        times = [seconds for one in self._supervised if (seconds := one.seconds_until_next_step()) is not None]
        if self._watcher is not None:
            times.append(POLL_SECONDS)
        return min(times, default=None)


class _SupervisedChild:
    """One child and what is to be done with it next."""

    def __init__(self, child: Child, report: Callable[[str], None], *, may_break: bool) -> None:
        self._child = child
        self._report = report
        self._may_break = may_break
        self._state = _State.READY
        self._ends: deque[float] = deque()
        self._started_at = self._due_at = 0.0

    @property
    def kind(self) -> str:
        return self._child.program.kind

    def step(self) -> None:
        """Do what is due. Raises StackError when the child has ended too often."""
        now = time.monotonic()
        match self._state:
            case _State.READY:
                if not self._child.running:
                    self._on_end(now)
            case _State.STARTING:
                self._check_readiness(now)
            case _State.DELAYED:
                if now >= self._due_at:
                    self._restart()
            case _State.STOPPING:
                if not self._child.running:
                    self._restart()
                elif now >= self._due_at:
                    self._child.send_signal(signal.SIGKILL)
            case _State.BROKEN:
                pass

    def reload(self, path: str) -> None:
        """Restart, because the file `path` changed."""
        self._ends.clear()
        if self._state is _State.STOPPING:
            return
        self._report(f"{self._child.program.name:<13} restarts: {path} changed")
        if not self._child.running:
            self._restart()
            return
        self._child.send_signal(signal.SIGTERM)
        self._state = _State.STOPPING
        self._due_at = time.monotonic() + self._child.program.stop_timeout

    def seconds_until_next_step(self) -> float | None:
        """Seconds after which `step` has something to do; None: when a child ends or a signal arrives."""
        match self._state:
            case _State.READY | _State.BROKEN:
                return None
            case _State.STARTING:
                return READINESS_POLL_SECONDS
            case _:
                return max(0.01, min(1.0, self._due_at - time.monotonic()))

    def _restart(self) -> None:
        self._child.restart()
        self._started_at = time.monotonic()
        self._state = _State.STARTING

    def _check_readiness(self, now: float) -> None:
        error = self._child.program.readiness_error() if self._child.running else None
        if not self._child.running:
            self._on_end(now)
        elif error is None:
            self._state = _State.READY
            self._report(self._child.ready_line(now - self._started_at))

    def _on_end(self, now: float) -> None:
        was_starting = self._state is _State.STARTING
        self._ends.append(now)
        while self._ends[0] < now - RESTART_WINDOW_SECONDS:
            self._ends.popleft()
        count = len(self._ends)
        summary = self._child.exit_summary()
        if self._may_break and (was_starting or count > MAX_RESTARTS):
            self._report(f"{summary}; it is started again when its sources change")
            self._state = _State.BROKEN
        elif count > MAX_RESTARTS:
            raise StackError(f"{summary}; it ended {count} times within {RESTART_WINDOW_SECONDS:g} s")
        else:
            self._report(
                f"{summary}; it is restarted ({count} of at most {MAX_RESTARTS} times in {RESTART_WINDOW_SECONDS:g} s)"
            )
            self._due_at = now + FIRST_RESTART_DELAY_SECONDS * 2 ** (count - 1)
            self._state = _State.DELAYED
