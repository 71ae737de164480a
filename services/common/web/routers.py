"""Creates the routers of endpoints, and adds their routes to an application.

FastAPI's `include_router` builds each route again for the application, 50 ms of CPU when the upload service starts, and matches
each request twice. Our routes have no prefix, and `create_router` gives them what they would inherit from the application.
"""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from fastapi.routing import APIRoute

MAX_JSON_BODY_BYTES = 256 * 1024
"""Bytes of a JSON body. Media bodies do not pass through FastAPI's parsing and have limits of their own."""


def operation_id(route: APIRoute) -> str:
    """The id of a route's operation in the OpenAPI document: the name of its function."""
    return route.name


def create_router(
    tag: str, *, route_class: type[APIRoute] = APIRoute, dependencies: Sequence[Depends] = ()
) -> APIRouter:
    """Return a router whose routes have this tag in the OpenAPI document, and the limit of JSON bodies."""
    return APIRouter(
        tags=[tag],
        route_class=route_class,
        dependencies=dependencies,
        generate_unique_id_function=operation_id,
        max_body_size=MAX_JSON_BODY_BYTES,
    )


def add_routes(app: FastAPI, router: APIRouter) -> None:
    """Add the routes of a router as they are: applications of one process share them."""
    app.router.routes.extend(router.routes)
