"""Extracts the reason why a child ended from its log, as one short line.

mongod writes JSON lines with `s` and `msg`, our services JSON lines with `level` and `message`; redis-server, the
dynamic linker and Python write plain text.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

TAIL_BYTES = 64 * 1024
MAX_MESSAGE_LENGTH = 300

_ERROR_LINE = re.compile(
    r'"s":"[EF]"|"level": ?"(error|critical)"|\berror\b|\bfatal\b|Error\b|Exception\b|Errno', re.IGNORECASE
)
# uvicorn writes this after the traceback, which has the reason.
_STARTUP_FAILED = "Application startup failed"
_NON_ERROR_LINE = re.compile(r'"s":"[IWD]\d?"|"level": ?"(debug|info|warning)"', re.IGNORECASE)


def last_error_line(log_path: Path, offset: int = 0, *, or_last: bool = True) -> str:
    """The last line after `offset` bytes that reports an error, else the last line if `or_last`; empty if there is none."""
    lines = [line for line in tail(log_path, offset=offset).splitlines() if line.strip()]
    for line in reversed(lines):
        if _ERROR_LINE.search(line) and not _NON_ERROR_LINE.search(line) and _STARTUP_FAILED not in line:
            return _format_line(line)
    return _format_line(lines[-1]) if lines and or_last else ""


def tail(log_path: Path, size: int = TAIL_BYTES, offset: int = 0) -> str:
    """At most the last `size` bytes of a log, and nothing before `offset`."""
    try:
        with log_path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(offset, end - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _format_line(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    text = _message(entry) if isinstance(entry, dict) else ""
    return " ".join((text or line).split())[:MAX_MESSAGE_LENGTH]


def _message(entry: dict[str, Any]) -> str:
    message = _last_line(entry.get("msg") or entry.get("message"))
    details = entry.get("attr")
    reason = _last_line(details.get("error") if isinstance(details, dict) else entry.get("exception"))
    return f"{message}: {reason}" if message and reason else message


def _last_line(text: object) -> str:
    """The last line: that of a traceback names the error."""
    return str(text or "").strip().rpartition("\n")[2]
