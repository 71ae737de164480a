"""Checks addresses of SQL databases. No error quotes one: any part of it may be a part of its password. Pure."""

import re

_POSTGRESQL = re.compile(
    r"(?:(?P<userinfo>[^/?#]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]/:@?#]*)(?::(?P<port>[0-9]{1,5}))?"
    r"/(?P<database>[^/?#@]+)"
    r"(?:\?(?P<options>[A-Za-z_]+=[^&#@]*(?:&[A-Za-z_]+=[^&#@]*)*))?"
)
_CREDENTIALS = re.compile(r"(?:[^%:@]|%[0-9A-Fa-f]{2})+(?::(?:[^%:@]|%[0-9A-Fa-f]{2})*)?")


def check_database_url(url: str) -> None:
    """Check `sqlite:///PATH` or `postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS`.

    SQLite is called in threads of the store, whichever driver its address names: `sqlite+aiosqlite:///PATH` is the same.

    Raises:
        ValueError: with a sentence that contains no part of the address.

    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"sqlite", "sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise ValueError("the address of a database begins with sqlite:/// or postgresql+asyncpg://")
    if not rest.isprintable():
        raise ValueError("the address of a database has no control characters")
    if scheme != "postgresql+asyncpg":
        _check_sqlite_path(rest)
    else:
        _check_postgresql(rest)


def _check_sqlite_path(rest: str) -> None:
    if not rest.startswith("/") or rest[1:] in {"", ":memory:"} or rest.endswith("/") or re.search(r"[?#]", rest):
        raise ValueError(
            "an address of SQLite is sqlite:/// and the path of a file, with a fourth slash where it is absolute, "
            "without options"
        )


def _check_postgresql(rest: str) -> None:
    match = _POSTGRESQL.fullmatch(rest)
    if match is None or " " in rest:
        raise ValueError(
            "an address of PostgreSQL is postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE, perhaps with ?name=value; in its "
            "user name and password : is written as %3A, / as %2F, ? as %3F, # as %23, @ as %40, % as %25 and a space as %20"
        )
    if match["userinfo"] is not None and not _CREDENTIALS.fullmatch(match["userinfo"]):
        raise ValueError(
            "an address of PostgreSQL is malformed: it has a user name, and in its user name and password : is written as %3A, "
            "@ as %40 and % as %25"
        )
    if not 0 < int(match["port"] or 1) < 65536:
        raise ValueError("an address of PostgreSQL has a port that is not between 1 and 65535")
