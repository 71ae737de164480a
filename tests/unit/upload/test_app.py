"""services.upload.app: preparing the store is repeated until it succeeds."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from pymongo.errors import OperationFailure

from services.common.errors import ServiceUnavailable
from services.upload import app as application

pytestmark = pytest.mark.anyio


class FailingStore:
    """Fails a few times, each time with another error."""

    def __init__(self, *faults: Exception) -> None:
        self.errors = list(faults)

    async def ensure_schema(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


async def test_store_is_prepared_once_it_is_available(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A permission that is granted later needs no restart; the database's error message is not shown to clients."""
    monkeypatch.setattr(application, "SCHEMA_RETRY_SECONDS", 0.01)
    app = FastAPI()
    refused = OperationFailure("not authorized on gridcast to execute command { secret }", 13)
    store: Any = FailingStore(ServiceUnavailable("away"), refused, refused, RuntimeError("the index name is missing"))
    told: list[str | None] = []
    task = asyncio.create_task(application._ensure_schema(app, store))
    while not task.done():
        told.append(app.state.schema_error if hasattr(app.state, "schema_error") else None)
        await asyncio.sleep(0)
    await task
    assert app.state.schema_error is None
    assert [fault for fault in dict.fromkeys(told) if fault] == [
        ServiceUnavailable("away").detail,
        "store initialization failed",
        "the index name is missing",
    ]
    assert sum("not authorized" in record.message for record in caplog.records) == 1
