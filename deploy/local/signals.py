"""Ctrl-C, termination and the death of a child as something that can be waited for. Knows no child.

A handler that raised could do so between the start of a child and the note of it; these only count.
"""

import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

from deploy.local.errors import StopRequested

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalWaiter:
    """Takes the signals of this process over, for the rest of its life."""

    def __init__(self) -> None:
        self._stop_count = 0
        self._interrupt_count = 0
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.settimeout(0)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # nohup: who starts us so wants us to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        # A signal without a handler wakes nobody.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            # What is left to do is to exit, with the code that has been decided.
            signal.signal(number, signal.SIG_IGN)
        self._reader.close()
        self._writer.close()

    def pause(self, seconds: float | None = None) -> None:
        """Waits for the time, a child's end or a signal. Raises Stopped once the end was asked for."""
        if not self._stop_count:
            readable, _, _ = select.select([self._reader], [], [], seconds)
            if readable:
                self._reader.recv(4096)
        if self._stop_count:
            raise StopRequested

    @property
    def force(self) -> bool:
        """Ctrl-C was pressed again. Only it counts: make and timeout pass one SIGTERM on twice."""
        return self._interrupt_count > 1

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._stop_count += 1
        self._interrupt_count += signum == signal.SIGINT
