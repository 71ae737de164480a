"""Bars on a terminal: the one file that imports rich, and only when there is something to draw."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gridcast import values
from gridcast.cli.output import printable

_LABELS = {"transferring": "", "verifying": "verifying", "done": "done"}


class Bars:
    """One bar for each transfer under way, and one for all of them where there are several."""

    def __init__(self, count: int, total: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._all = self._progress.add_task(f"{count} files", total=total, state="") if count > 1 else None
        self._seen: dict[str, int] = {}

    def start(self) -> None:
        """Begin to draw."""
        self._progress.start()

    def update(self, name: str, progress: values.TransferProgress) -> None:
        """Show how far a transfer is. Called by its thread."""
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = self._progress.add_task(printable(name), total=progress.total, state="")
        self._progress.update(
            task, completed=progress.durable, total=progress.total, state=_LABELS.get(progress.state, "")
        )
        if self._all is not None:
            self._progress.advance(self._all, max(0, progress.durable - self._seen.get(name, 0)))
            self._seen[name] = max(progress.durable, self._seen.get(name, 0))

    def finish(self, name: str) -> None:
        """Remove the bar of a transfer that is over."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
