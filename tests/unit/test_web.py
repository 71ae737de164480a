"""services.common.web: what an application built by it makes of a fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from services.common.web import Disconnected, build

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


async def test_a_client_that_leaves_is_no_fault_of_ours() -> None:
    """499 in the log and the metrics: nobody is there to read it, and a 500 would wake somebody up."""
    app = build("test", "A test.", nothing, {})

    @app.get("/left")
    async def left() -> None:
        raise Disconnected

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/left", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 499
