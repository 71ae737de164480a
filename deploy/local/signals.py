"""Waits for Ctrl-C, termination signals and the end of a child.

The handlers only count: one that raised could do so between the start of a child and its registration.
"""

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

from deploy.local.errors import StopRequested

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalWaiter:
    """Handles the stop signals of this process. After the block they are ignored: the exit code is decided."""

    def __init__(self) -> None:
        self._stop_count = 0
        self._interrupt_count = 0
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.settimeout(0)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # Started by nohup: SIGHUP stays ignored, so that the run outlives the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        # Without a handler SIGCHLD does not write to the wakeup descriptor.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._reader.close()
        self._writer.close()

    def pause(self, seconds: float | None = None) -> None:
        """Wait for `seconds`, the end of a child or a signal. Raises StopRequested after a stop signal."""
        if not self._stop_count:
            readable, _, _ = select.select([self._reader], [], [], seconds)
            if readable:
                self._reader.recv(4096)
        if self._stop_count:
            raise StopRequested

    @property
    def force(self) -> bool:
        """Whether Ctrl-C was pressed twice. SIGTERM is not counted: make and timeout forward one SIGTERM twice."""
        return self._interrupt_count > 1

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._stop_count += 1
        self._interrupt_count += signum == signal.SIGINT
