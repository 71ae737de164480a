"""services.common.store.gridfs.mongo: which driver errors mean that MongoDB is unavailable. The others are our own and are not
translated.
"""

import asyncio

import pytest
from pymongo.errors import (
    AutoReconnect,
    DuplicateKeyError,
    NetworkTimeout,
    OperationFailure,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from services.common.errors import ServiceUnavailable
from services.common.store.gridfs import mongo
from services.common.store.gridfs.mongo import map_mongo_errors

pytestmark = pytest.mark.anyio


def error_with_label(code: int, label: str) -> OperationFailure:
    return OperationFailure("x", code, {"errorLabels": [label]})


UNAVAILABLE_ERRORS = [
    AutoReconnect("x"),
    NetworkTimeout("x"),
    ServerSelectionTimeoutError("x"),
    WTimeoutError("x"),
    OperationFailure("primary steps down", 189),
    OperationFailure("a shard is away, asked through mongos", 6),
    OperationFailure("cursor not found", 43),
    error_with_label(1, "RetryableWriteError"),
    # PyMongo's own lock, where a waiter was cancelled.
    RuntimeError("Lock is not acquired"),
    RuntimeError("cannot wait on un-acquired lock"),
]
OTHER_ERRORS = [
    OperationFailure("not authorized", 13),
    DuplicateKeyError("x", 11000),
    RuntimeError("ours"),
    LookupError("x"),
]


@pytest.mark.parametrize("error", UNAVAILABLE_ERRORS, ids=str)
async def test_unavailable_mongodb_errors_are_translated(error: Exception) -> None:
    with pytest.raises(ServiceUnavailable) as told:
        async with map_mongo_errors():
            raise error
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=str)
async def test_errors_of_our_own_are_not_translated(error: Exception) -> None:
    with pytest.raises(type(error)) as told:
        async with map_mongo_errors():
            raise error
    assert told.value is error


async def test_mongodb_timeout_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo, "OPERATION_TIMEOUT_MS", 20)
    with pytest.raises(ServiceUnavailable):
        async with map_mongo_errors():
            await asyncio.sleep(60)
