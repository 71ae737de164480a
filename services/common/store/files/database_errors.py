"""Maps the errors of SQLite, of PostgreSQL and of their drivers. The texts contain nothing of the driver's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import exc

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable

OPERATION_TIMEOUT_SECONDS = 8.0
"""One transaction with all waiting: every request is promised an answer within 10 s."""

_log = logging.getLogger("gridcast.store")
_SQLITE_LOCKED_CODES = frozenset({5, 6})
_SQLITE_DAMAGED_CODES = frozenset({11, 26})
_SQLITE_UNAVAILABLE_CODES = {
    3: "the database file cannot be accessed",
    8: "the database cannot be written",
    10: "the disk of the database has failed",
    14: "the database file cannot be opened",
    23: "the database file cannot be accessed",
}
_SQLITE_FULL_CODE = 13
_POSTGRESQL_FULL_STATES = frozenset({"53100"})
# Classes of SQLSTATE: connection, resources, intervention of an operator, failed login, and lock or time limits of an object.
_POSTGRESQL_UNAVAILABLE_CLASSES = frozenset({"08", "28", "3D", "53", "55", "57", "58", "XX", "40", "25"})
_POSTGRESQL_NO_TABLE_STATE = "42P01"


@asynccontextmanager
async def map_database_errors(limit: float | None = OPERATION_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Map the errors by which a database says that it is unavailable, damaged or full, and `limit` seconds without an answer.

    The transaction may still be committed. Every other error is a defect of this code and passes unchanged.
    """
    with map_errors():
        async with asyncio.timeout(limit):
            yield


@contextmanager
def map_errors() -> Iterator[None]:
    """Map the same errors of what runs in the calling thread."""
    try:
        yield
    except GridcastError:
        raise
    except (TimeoutError, exc.TimeoutError) as error:
        raise ServiceUnavailable("the database does not respond") from error
    except exc.DBAPIError as error:
        mapped = _map_error(error.orig, disconnected=error.connection_invalidated)
        if mapped is None:
            raise
        raise mapped from error
    except OSError as error:
        raise ServiceUnavailable("the database is unavailable") from error
    except Exception as error:
        # What asyncpg raises while it connects is not wrapped, nor what sqlite3 raises past SQLAlchemy.
        mapped = (
            _map_error(error, disconnected=False) if type(error).__module__.startswith(("asyncpg", "sqlite3")) else None
        )
        if mapped is None:
            raise
        raise mapped from error


def _map_error(error: BaseException | None, *, disconnected: bool) -> GridcastError | None:
    """The error to raise instead, None for a defect of this code. Its text contains nothing of the driver's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _map_sqlite_error(code & 0xFF, str(error))
    state = getattr(error, "sqlstate", None) or ""
    if state == _POSTGRESQL_NO_TABLE_STATE:
        return ServiceUnavailable("the tables are not created yet")
    if state in _POSTGRESQL_FULL_STATES:
        return InsufficientStorage("insufficient disk space for the database")
    if disconnected or not state or state[:2] in _POSTGRESQL_UNAVAILABLE_CLASSES:
        return ServiceUnavailable("the database is unavailable")
    return None


def _map_sqlite_error(code: int, message: str) -> GridcastError | None:
    if code in _SQLITE_LOCKED_CODES:
        return ServiceUnavailable("the database is locked by another process")
    if code == _SQLITE_FULL_CODE:
        return InsufficientStorage("insufficient disk space for the database")
    if code in _SQLITE_DAMAGED_CODES:
        _log.error("the database file is damaged; restore it from a backup")
        return ServiceUnavailable("the database is damaged")
    if code in _SQLITE_UNAVAILABLE_CODES:
        return ServiceUnavailable(_SQLITE_UNAVAILABLE_CODES[code])
    if message.startswith("no such table"):
        return ServiceUnavailable("the tables are not created yet")
    return None
