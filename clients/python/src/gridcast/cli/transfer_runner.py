"""Runs transfers in threads: progress, failures at the end, and an end within two seconds of Ctrl-C."""

import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gridcast.cli.exit_codes import ExitCode, exit_code_of
from gridcast.cli.output import CommandOutput, describe_error, format_bytes, format_duration, printable
from gridcast.values import ProgressCallback, TransferProgress

if TYPE_CHECKING:
    from gridcast.cli.drawing import Bars

PLAIN_INTERVAL_SECONDS = 10.0
STOP_SECONDS = 0.8
"""How long threads get after Ctrl-C to notice it: what they leave behind can be continued in any case."""


@dataclass(frozen=True, slots=True)
class TransferOutcome:
    """What became of one transfer: `verb` as uploaded, downloaded, unchanged; the JSON members to print."""

    verb: str
    document: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TransferJob:
    """One transfer: its name for the user, its bytes if they are known, and what runs it."""

    name: str
    size: int | None
    run: Callable[[ProgressCallback], TransferOutcome]


class TransferStopped(BaseException):
    """Ends a transfer from inside its progress callback. No handler of errors takes it for one."""


class TransferRunner:
    """Runs jobs, `threads` of them at a time."""

    def __init__(self, output: CommandOutput, threads: int) -> None:
        self._output = output
        self._threads = threads
        self._waiting: deque[TransferJob] = deque()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failures: list[tuple[TransferJob, BaseException]] = []
        self._bars: Bars | None = None
        self._latest: dict[str, TransferProgress] = {}
        self._done_count = 0

    def run(self, jobs: Sequence[TransferJob]) -> ExitCode:
        """Run all jobs and return the exit code: that of the only job, or 6 where some of several failed."""
        self._waiting.extend(jobs)
        sizes = [job.size for job in jobs if job.size is not None]
        if self._output.can_draw and jobs:
            from gridcast.cli.drawing import Bars as RichBars  # noqa: PLC0415  # rich only where it draws

            self._bars = RichBars(len(jobs), sum(sizes) if len(sizes) == len(jobs) else None)
            self._bars.start()
        workers = [
            threading.Thread(target=self._work, name=f"transfer-{number}", daemon=True)
            for number in range(min(self._threads, len(jobs)))
        ]
        started_at = time.monotonic()
        try:
            for worker in workers:
                worker.start()
            self._wait(workers, len(jobs), started_at)
        except KeyboardInterrupt:
            self._stopped.set()
            deadline = time.monotonic() + STOP_SECONDS
            for worker in workers:
                worker.join(max(0.0, deadline - time.monotonic()))
            self._stop_bars()
            self._output.note(f"interrupted; to go on, run again: {shlex.join(['gridcast', *sys.argv[1:]])}")
            return ExitCode.INTERRUPTED
        finally:
            self._stop_bars()
        return self._report_failures(len(jobs))

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            self._run_job(job)

    def _run_job(self, job: TransferJob) -> None:
        def report(progress: TransferProgress) -> None:
            if self._stopped.is_set():
                raise TransferStopped
            self._latest[job.name] = progress
            if self._bars is not None:
                self._bars.update(job.name, progress)

        try:
            outcome = job.run(report)
        except TransferStopped:
            return
        except BaseException as error:  # noqa: BLE001  # shown at the end, and again in the exit code
            with self._lock:
                self._failures.append((job, error))
                self._finish(job)
                if self._output.is_json:
                    self._output.record("", {"path": job.name, "status": "failed", "error": describe_error(error)})
                else:
                    self._output.error(error, f"failed {printable(job.name)}")
            return
        with self._lock:
            self._finish(job)
            self._done_count += 1
            self._output.record(
                f"{outcome.verb} {printable(job.name)}", {"path": job.name, "status": outcome.verb, **outcome.document}
            )

    def _finish(self, job: TransferJob) -> None:
        self._latest.pop(job.name, None)
        if self._bars is not None:
            self._bars.finish(job.name)

    def _wait(self, workers: Sequence[threading.Thread], count: int, started_at: float) -> None:
        next_line_at = started_at + PLAIN_INTERVAL_SECONDS
        for worker in workers:
            while worker.is_alive():
                worker.join(0.1)
                if self._bars is None and not self._output.is_json and time.monotonic() >= next_line_at:
                    next_line_at += PLAIN_INTERVAL_SECONDS
                    self._print_progress(count, started_at)

    def _print_progress(self, count: int, started_at: float) -> None:
        for name, progress in list(self._latest.items()):
            total = "" if progress.total is None else f" of {format_bytes(progress.total)}"
            after = format_duration(time.monotonic() - started_at)
            self._output.note(f"{printable(name)}: {format_bytes(progress.durable)}{total} after {after}")
        if count > 1:
            self._output.note(f"{self._done_count} of {count} files")

    def _stop_bars(self) -> None:
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def _report_failures(self, count: int) -> ExitCode:
        """Name the failures again at the end, where they are seen."""
        if not self._failures:
            return ExitCode.OK
        if count == 1:
            return exit_code_of(self._failures[0][1])
        sys.stderr.write(f"{len(self._failures)} of {count} failed:\n")
        for job, error in self._failures:
            sys.stderr.write(f"  {printable(job.name)}: {describe_error(error)}\n")
        sys.stderr.flush()
        codes = {exit_code_of(error) for _, error in self._failures}
        return codes.pop() if len(self._failures) == count and len(codes) == 1 else ExitCode.SOME_FAILED
