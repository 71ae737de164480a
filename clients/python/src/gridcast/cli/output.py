"""What the command line prints: data on stdout, everything else on stderr; one JSON object a line with --json."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gridcast.cli.exit_codes import hint_for
from gridcast.errors import RequestError
from gridcast.values import FileInfo


class CommandOutput:
    """The two streams of a command. Without a terminal nothing is drawn and nothing is overwritten."""

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self._hints: set[str] = set()

    @property
    def can_draw(self) -> bool:
        """Whether progress may be drawn: stderr is a terminal that can move its cursor."""
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
        return is_terminal and not self.is_json and not self.is_quiet

    def record(self, plain: str, document: Mapping[str, Any]) -> None:
        """Print one result on stdout."""
        self.line(json.dumps(document, ensure_ascii=False) if self.is_json else plain)

    def line(self, text: str) -> None:
        """Print one line of data on stdout."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print one line for a human on stderr; nothing with --quiet."""
        if not self.is_quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def error(self, error: BaseException, subject: str = "") -> None:
        """Print an error on stderr, in one line and a hint, which is given once: --quiet does not hide it."""
        text = describe_error(error)
        sys.stderr.write(f"{subject}: {text}\n" if subject else f"error: {text}\n")
        if (hint := hint_for(error)) and hint not in self._hints:
            self._hints.add(hint)
            sys.stderr.write(f"hint: {hint}\n")
        sys.stderr.flush()


def describe_error(error: BaseException) -> str:
    """Return the sentence for an error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RequestError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def printable(text: str) -> str:
    """Return a text that cannot move the cursor: names come from others."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def file_document(info: FileInfo) -> dict[str, Any]:
    """Return the JSON of a file."""
    return {
        "path": info.path,
        **asdict(info),
        "uploaded_at": info.uploaded_at.isoformat(),
        "metadata": dict(info.metadata),
    }


def format_bytes(count: float) -> str:
    """Return a number of bytes for a human, in units of 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return a number of seconds for a human."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
