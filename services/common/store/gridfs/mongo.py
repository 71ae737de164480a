"""Opens MongoDB. The only file that imports Motor, and the only one with the differences between Motor and PyMongo's asyncio API.

Motor is past its end of life (May 2026); `driver="pymongo"` replaces it without another line changed. All other files use only
collection calls that both share.
"""

import asyncio
import inspect
import logging
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from pymongo import AsyncMongoClient, ReadPreference
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)
from pymongo.write_concern import WriteConcern

from services.common.errors import ServiceUnavailable
from services.common.mongodb_uri import check_mongodb_uri

_log = logging.getLogger("gridcast.store")
MongoDriver = Literal["motor", "pymongo"]
MongoCollection = Any
"""A collection of either driver: Motor has no types for a type checker."""

SERVER_SELECTION_TIMEOUT_MS = 2400
"""How long the driver looks for a server before a call fails (3 s are promised). The driver checks this limit every half a second:
with 2,500 ms some calls failed after 2.5 s, others after 3.0.
"""
OPERATION_TIMEOUT_MS = 8000
"""One operation with its retries (every request is promised an answer within 10 s). Not `timeoutMS`, which would also replace the
shorter time for finding a server: with it a refused connection was reported after 8.5 s."""

MAJORITY_JOURNALED = WriteConcern(w="majority", j=True)
"""Acknowledged means journaled, and on a replica set by its majority. A standalone server is a majority of one. With j off, 22 of
1,333 acknowledged inserts were gone after three SIGKILLs of a standalone mongod; with it none of 1,520 after four."""

# Server codes of a temporary fault: shutdown, stepping down, no primary; an exceeded time limit, a lost cursor or lock.
# 20: after a kill the driver takes a standalone server for a moment for one with retryable writes, which it refuses.
_TRANSIENT_CODES = frozenset(
    {20, 24, 43, 50, 64, 91, 112, 175, 189, 237, 262, 10107, 11600, 11601, 11602, 13435, 13436}
)
# Codes of a mongos for an unavailable shard; the answer to a read carries no error label.
_SHARD_UNAVAILABLE_CODES = frozenset({6, 7, 89, 133, 134, 9001})


class MongoDatabase:
    """A client and its database."""

    def __init__(self, client: Any, database: str) -> None:
        self.client = client
        # Overrides the read preference of the connection string: a secondary may be behind what was acknowledged, and a commit
        # whose outcome is resolved there would be taken for lost.
        self.database = client.get_database(
            database, write_concern=MAJORITY_JOURNALED, read_preference=ReadPreference.PRIMARY
        )

    def collection(self, name: str) -> MongoCollection:
        """A collection with the write concern MAJORITY_JOURNALED."""
        return self.database[name]

    async def list_indexes(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the indexes of a collection by name. Motor returns a cursor, PyMongo an awaitable cursor."""
        cursor = self.collection(name).list_indexes()
        if inspect.isawaitable(cursor):
            cursor = await cursor
        return {index["name"]: dict(index) async for index in cursor}

    async def aggregate(
        self, name: str, pipeline: list[dict[str, Any]], limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Run a pipeline over a collection and return its results, at most `limit`.

        Motor returns a cursor, PyMongo an awaitable cursor.
        """
        cursor = self.collection(name).aggregate(pipeline)
        if inspect.isawaitable(cursor):
            cursor = await cursor
        rows: list[dict[str, Any]] = await cursor.to_list(limit)
        return rows

    async def read_free_bytes(self) -> int | None:
        """Return the free bytes on the volume of the database as `dbStats` reports them; with shards, on the fullest one."""
        async with map_mongo_errors():
            stats = await self.database.command("dbStats")
        # A database that does not exist yet is reported on a volume of 0 bytes, which means nothing.
        volumes = [shard for shard in stats.get("raw", {"": stats}).values() if shard.get("fsTotalSize")]
        return min((int(volume["fsTotalSize"] - volume["fsUsedSize"]) for volume in volumes), default=None)

    async def ping(self) -> None:
        """Check that a primary responds. Raises ServiceUnavailable."""
        async with map_mongo_errors():
            await self.client.admin.command("ping")

    async def aclose(self) -> None:
        """Close all connections."""
        closing = self.client.close()
        if inspect.isawaitable(closing):
            await closing


def open_mongo_database(uri: str, database: str, driver: MongoDriver = "motor") -> MongoDatabase:
    """Open a client for any form of connection string; it connects with the first call. Must be called in a running event loop.

    Raises ConfigurationError where the string is invalid. Its text, and the log, contain no part of the string.
    """
    check_mongodb_uri(uri)
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        "connectTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        "socketTimeoutMS": OPERATION_TIMEOUT_MS,
        "appname": "gridcast",
        "tz_aware": True,
    }
    # Neither errors nor warnings of the drivers: both quote hosts, names of databases and values of options.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            client = _create_client(uri, driver, options)
        except (PyMongoError, ValueError, TypeError, OSError):
            raise ConfigurationError(
                "the connection string of MongoDB has an invalid value, names a file that cannot be read, or names a host that "
                "cannot be looked up"
            ) from None
    if caught:
        _log.warning(
            "options of the connection string of MongoDB are unknown, deprecated or invalid, and may be ignored",
            extra={"fields": {"count": len(caught)}},
        )
    return MongoDatabase(client, database)


def _create_client(uri: str, driver: MongoDriver, options: dict[str, Any]) -> Any:
    if driver == "pymongo":
        return AsyncMongoClient(uri, **options)
    from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415  # not loaded with the other driver

    return AsyncIOMotorClient(uri, io_loop=asyncio.get_running_loop(), **options)


def is_transient_code(code: int | None) -> bool:
    """Whether the fault is temporary: the same call may succeed a moment later."""
    return code in _TRANSIENT_CODES or code in _SHARD_UNAVAILABLE_CODES


@asynccontextmanager
async def map_mongo_errors() -> AsyncIterator[None]:
    """Map the errors by which either driver says that MongoDB is unavailable, and 8 s without an answer, to ServiceUnavailable.

    The operation may still be executed. Every other error of a driver is a defect of this code and passes unchanged.
    """
    try:
        async with asyncio.timeout(OPERATION_TIMEOUT_MS / 1000):
            yield
    except TimeoutError as error:
        raise ServiceUnavailable("the database does not respond") from error
    except (AutoReconnect, ConnectionFailure, NetworkTimeout, ExecutionTimeout, WTimeoutError) as error:
        raise ServiceUnavailable("the database is unavailable") from error
    except OperationFailure as error:
        if is_transient_code(error.code) or error.has_error_label("RetryableWriteError"):
            raise ServiceUnavailable("the database is unavailable") from error
        raise
    except PyMongoError as error:
        if error.timeout:
            raise ServiceUnavailable("the database is unavailable") from error
        raise
    except RuntimeError as error:
        # PyMongo's lock after its waiter was cancelled by a time limit: "Lock is not acquired", "cannot wait on un-acquired lock".
        if "acquired" not in str(error):
            raise
        raise ServiceUnavailable("the database does not respond") from error


__all__ = [
    "ConfigurationError",
    "InvalidURI",
    "MongoDatabase",
    "MongoDriver",
    "is_transient_code",
    "map_mongo_errors",
    "open_mongo_database",
]
