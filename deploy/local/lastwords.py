"""What a child's log says about its end, as one short line. Reads log files; knows no process.

mongod writes JSON lines with `s` and `msg`, our services JSON lines with `level` and `message`; redis-server, the
dynamic linker and Python write plain text.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

TAIL = 64 * 1024
LONGEST = 300

_BAD = re.compile(
    r'"s":"[EF]"|"level": ?"(error|critical)"|\berror\b|\bfatal\b|Error\b|Exception\b|Errno', re.IGNORECASE
)
# The server's word after the traceback that says why.
_EPILOGUE = "Application startup failed"
_ORDINARY = re.compile(r'"s":"[IWD]\d?"|"level": ?"(debug|info|warning)"', re.IGNORECASE)


def last_words(log: Path) -> str:
    """The last line that looks like an error, else the last line; empty when there is nothing."""
    lines = [line for line in tail(log).splitlines() if line.strip()]
    for line in reversed(lines):
        if _BAD.search(line) and not _ORDINARY.search(line) and _EPILOGUE not in line:
            return _plain(line)
    return _plain(lines[-1]) if lines else ""


def tail(log: Path, size: int = TAIL) -> str:
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _plain(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    text = _message(entry) if isinstance(entry, dict) else ""
    return " ".join((text or line).split())[:LONGEST]


def _message(entry: dict[str, Any]) -> str:
    said = _end_of(entry.get("msg") or entry.get("message"))
    details = entry.get("attr")
    reason = _end_of(details.get("error") if isinstance(details, dict) else entry.get("exception"))
    return f"{said}: {reason}" if said and reason else said


def _end_of(text: object) -> str:
    """The last line: a traceback's is the error."""
    return str(text or "").strip().rpartition("\n")[2]
