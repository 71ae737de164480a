"""Lists the routes of a FastAPI application, for the check that each has a rule (`services.common.auth.route_rules`)."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts


def list_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and template of each route. Raises RuntimeError for a mount or a WebSocket route, which no rule covers."""
    for route in iter_route_contexts(app.routes):
        methods, path = getattr(route, "methods", None), getattr(route, "path", None)
        if not methods or not isinstance(path, str):
            raise RuntimeError(f"a route without methods has no rule: {path}")
        for method in methods:
            yield method, path
