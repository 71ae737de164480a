"""services.common.web.routers: what the routes of a router have in the applications they are added to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute

from services.common.errors import BadRequest
from services.common.web.app_factory import create_fastapi_app
from services.common.web.json_route import JSONRoute
from services.common.web.route_list import list_routes
from services.common.web.routers import MAX_JSON_BODY_BYTES, add_routes, create_router

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def empty_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


def require_no_query(request: Request) -> None:
    if request.url.query:
        raise BadRequest("no query is allowed")


router = create_router("notes", route_class=JSONRoute, dependencies=[Depends(require_no_query)])


@router.post("/notes/{number}")
async def write_note(number: int, note: dict[str, str]) -> int:
    """Write a note."""
    return number + len(note["text"])


def create_app(title: str = "first") -> FastAPI:
    app = create_fastapi_app(title, "A test.", empty_lifespan, {})
    add_routes(app, router)
    return app


@pytest.mark.parametrize(
    ("path", "size", "coding", "status"),
    [
        ("/notes/1", 100, "identity", 200),
        ("/notes/1", MAX_JSON_BODY_BYTES + 1, "identity", 413),
        ("/notes/1", 100, "gzip", 415),
        ("/notes/1?a=b", 100, "identity", 400),
    ],
)
async def test_routes_keep_limit_class_and_dependencies(path: str, size: int, coding: str, status: int) -> None:
    """Also in a second application of the process."""
    body = b'{"text":"%s"}' % (b"x" * (size - len(b'{"text":""}')))
    headers = {"content-type": "application/json", "content-encoding": coding}
    for app in (create_app(), create_app("second")):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post(path, content=body, headers=headers)).status_code == status


async def test_document_names_the_operation_after_its_function() -> None:
    operation = create_app().openapi()["paths"]["/notes/{number}"]["post"]
    assert (operation["operationId"], operation["tags"]) == ("write_note", ["notes"])


async def test_routes_are_listed_and_shared() -> None:
    apps = create_app(), create_app("second")
    assert ("POST", "/notes/{number}") in list_routes(apps[0])
    (first, second) = (
        [one for one in app.routes if isinstance(one, APIRoute) and one.name == "write_note"] for app in apps
    )
    assert first == second == router.routes
