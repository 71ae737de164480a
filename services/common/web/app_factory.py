"""Builds the FastAPI application of a service: error responses, health routes, the OpenAPI document.

`services.common.web.middleware` is the layer in front of it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI

from services.common.web.health import ReadinessCheck, add_health_routes
from services.common.web.openapi import build_openapi
from services.common.web.problems import add_exception_handlers
from services.common.web.responses import ServiceFastAPI
from services.common.web.routers import MAX_JSON_BODY_BYTES, operation_id

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

PRODUCT_VERSION = "0.2.0"


def create_fastapi_app(
    title: str,
    summary: str,
    lifespan: Lifespan,
    readiness_checks: Mapping[str, ReadinessCheck],
    extend_openapi_paths: Callable[[dict[str, Any]], None] | None = None,
    document_title: str = "",
) -> FastAPI:
    """Return a FastAPI application with our error responses and health routes.

    `readiness_checks` are awaited by /readyz, which shows their names; `extend_openapi_paths` adds the paths of bypass routes.
    `document_title` is the title of the OpenAPI document, from which generators make the name of a client's package; by default
    it is `title`, the name of the service. The name of a route's function is the id of its operation.
    """
    app = ServiceFastAPI(
        title=title,
        summary=summary,
        version=PRODUCT_VERSION,
        generate_unique_id_function=operation_id,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=MAX_JSON_BODY_BYTES,
        telemetry={"tracing": False, "metrics": False},
    )
    add_exception_handlers(app)
    add_health_routes(app, readiness_checks)

    app.openapi = lambda: build_openapi(app, document_title or title, extend_openapi_paths)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app
