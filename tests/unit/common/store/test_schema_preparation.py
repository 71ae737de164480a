"""services.common.store.schema_preparation: preparing the store is repeated until it succeeds."""

import asyncio
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from services.common.errors import ServiceUnavailable
from services.common.store import schema_preparation
from services.common.store.schema_preparation import SchemaPreparation

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
    monkeypatch.setattr(schema_preparation, "SCHEMA_RETRY_SECONDS", 0.01)
    refused = OperationFailure("not authorized on gridcast to execute command { secret }", 13)
    store: Any = FailingStore(ServiceUnavailable("away"), refused, refused, RuntimeError("the index name is missing"))
    preparation = SchemaPreparation()
    preparation.check_prepared()
    told: list[str | None] = []
    task = asyncio.create_task(preparation.run(store))
    while not task.done():
        if preparation.error:
            with pytest.raises(ServiceUnavailable, match=preparation.error):
                preparation.check_prepared()
        told.append(preparation.error)
        await asyncio.sleep(0)
    await task
    preparation.check_prepared()
    assert [fault for fault in dict.fromkeys(told) if fault] == [
        ServiceUnavailable("away").detail,
        "store initialization failed",
        "the index name is missing",
    ]
    assert sum("not authorized" in record.message for record in caplog.records) == 1
