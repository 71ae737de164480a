"""Exit codes of the command line."""

from enum import IntEnum

from gridcast.errors import (
    AuthenticationRequired,
    FileMissing,
    NameConflict,
    PermissionDenied,
    ServerUnavailable,
)


class ExitCode(IntEnum):
    """What the shell gets. 6 is for several files of which some failed."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    SOME_FAILED = 6
    AWAY = 7
    INTERRUPTED = 130


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (AuthenticationRequired, ExitCode.NOT_ALLOWED),
    (PermissionDenied, ExitCode.NOT_ALLOWED),
    (FileMissing, ExitCode.NOT_FOUND),
    (NameConflict, ExitCode.CONFLICT),
    (ServerUnavailable, ExitCode.AWAY),
)
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (
        AuthenticationRequired,
        "set GRIDCAST_TOKEN or GRIDCAST_TOKEN_FILE, or give --token-file; a token ends after its time",
    ),
    (ServerUnavailable, "is the server running? GRIDCAST_URL or --url names another one; `gridcast doctor` checks it"),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def hint_for(error: BaseException) -> str:
    """Return what the user can do about an error; empty where there is nothing to say."""
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")
