"""Opens MongoDB. The one file that names Motor, and the only one that knows where Motor and PyMongo's asyncio API differ.

Motor is past its end of life (May 2026); `driver="pymongo"` takes its place without another line changed. Everything else uses
only collection calls that both share.
"""

import asyncio
import inspect
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

MongoDriver = Literal["motor", "pymongo"]
MongoCollection = Any
"""A collection of either driver: Motor has no types that a checker could use."""

SERVER_SELECTION_TIMEOUT_MS = 2500
"""No server found for so long: refused (the promise is 3 s)."""
OPERATION_TIMEOUT_MS = 8000
"""One step with its retries (the promise is that nothing stays silent for 10 s). Not `timeoutMS`, which would also replace the
shorter time for finding a server: with it a refused connection was reported after 8.5 s."""

MAJORITY_JOURNALED = WriteConcern(w="majority", j=True)
"""Acknowledged means journalled, and on a replica set by its majority. A standalone server is a majority of one. With j off, 22 of
1,333 acknowledged inserts were gone after three SIGKILLs of a standalone mongod; with it none of 1,520 after four."""

# Server codes that say "come back later": shutdown, stepping down, no primary; a time limit, a cursor or a lock that was lost.
# 20: a standalone server that was killed is for a moment taken for one that has retryable writes, and refuses them.
_TRANSIENT_CODES = frozenset(
    {20, 24, 43, 50, 64, 91, 112, 175, 189, 237, 262, 10107, 11600, 11601, 11602, 13435, 13436}
)
# What a mongos says of a shard that is away; the answer to a read carries no label.
_SHARD_UNAVAILABLE_CODES = frozenset({6, 7, 89, 133, 134, 9001})


class MongoDatabase:
    """A client and its database."""

    def __init__(self, client: Any, database: str) -> None:
        self.client = client
        # Of the connection string's read preference nothing is taken: a secondary may not know yet what was acknowledged, and an
        # upload that asks what became of its commit would be told a lie.
        self.database = client.get_database(
            database, write_concern=MAJORITY_JOURNALED, read_preference=ReadPreference.PRIMARY
        )

    def collection(self, name: str) -> MongoCollection:
        """A collection that writes durably."""
        return self.database[name]

    async def list_indexes(self, name: str) -> dict[str, dict[str, Any]]:
        """The indexes of a collection by name; Motor gives a cursor here, PyMongo an awaitable one."""
        cursor = self.collection(name).list_indexes()
        if inspect.isawaitable(cursor):
            cursor = await cursor
        return {index["name"]: dict(index) async for index in cursor}

    async def ping(self) -> None:
        """Whether a primary answers. Raises Unavailable."""
        async with map_mongo_errors():
            await self.client.admin.command("ping")

    async def aclose(self) -> None:
        """Close all connections."""
        closing = self.client.close()
        if inspect.isawaitable(closing):
            await closing


def open_mongo_database(uri: str, database: str, driver: MongoDriver = "motor") -> MongoDatabase:
    """A client for any form of the connection string; connects with the first call. Call it in a running event loop.

    Raises ConfigurationError where the string is wrong.
    """
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        "connectTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        "socketTimeoutMS": OPERATION_TIMEOUT_MS,
        "appname": "gridcast",
        "tz_aware": True,
    }
    if driver == "pymongo":
        return MongoDatabase(AsyncMongoClient(uri, **options), database)
    from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415  # not needed with the other driver

    return MongoDatabase(AsyncIOMotorClient(uri, io_loop=asyncio.get_running_loop(), **options), database)


def is_transient_code(code: int | None) -> bool:
    """Whether the server says that it may be well again in a moment."""
    return code in _TRANSIENT_CODES or code in _SHARD_UNAVAILABLE_CODES


@asynccontextmanager
async def map_mongo_errors() -> AsyncIterator[None]:
    """Turns "MongoDB is away" of either driver into Unavailable, and silence too, after 8 s: what was asked for may still happen.

    Every other error of a driver is a fault of ours and stays.
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
        # PyMongo's own lock, whose waiter was cancelled by a time limit: "Lock is not acquired", "cannot wait on un-acquired lock".
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
