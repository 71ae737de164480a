"""Builds the OpenAPI document of a service: FastAPI's, with our error responses."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from services.common.auth.route_rules import Rule, find_rule
from services.common.http.origins import SAFE_METHODS
from services.common.http.problem import PROBLEM_MEDIA_TYPE

COMMON_ERROR_STATUSES = (400, 414, 421, 431)
"""Sent before a route is known: for malformed and oversized requests, and for a Host that is not allowed."""


class ProblemDetails(BaseModel):
    """An error response (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="what was wrong; safe to show")


def openapi_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses=` for the error statuses of a route."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": "problem details", "content": {PROBLEM_MEDIA_TYPE: schema}} for status in statuses}


_BEARER_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "needed where authentication is on; the description of an operation names the right",
}


_LINK_SCHEME = {
    "type": "apiKey",
    "in": "query",
    "name": "link",
    "description": "a signed link of POST /file/link, in place of a token",
}


def _add_security(operation: dict[str, Any], rule: Rule | None) -> None:
    """Add the credential and its errors to an operation that needs a right, and the right to its description.

    The empty requirement stands for instances without authentication and for rights of anonymous callers.
    """
    if rule is None or rule.verb is None:
        return
    operation["security"] = [{"bearer": []}, *([{"link": []}] if rule.link else []), {}]
    operation["description"] = f"{operation.get('description', '')}\n\nRight: `{rule.verb}`.".strip()
    for status, answer in openapi_problems(401, 403).items():
        operation["responses"].setdefault(str(status), answer)


def build_openapi(app: FastAPI, title: str, extend_paths: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    """Return FastAPI's document with this title, without 422, which this API never sends, and with the schema of a problem."""
    if app.openapi_schema is None:
        document = get_openapi(title=title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = ProblemDetails.model_json_schema()
        if extend_paths is not None:
            extend_paths(document["paths"])
        document["components"]["securitySchemes"] = {"bearer": _BEARER_SCHEME, "link": _LINK_SCHEME}
        for path, item in document["paths"].items():
            for method, operation in item.items():
                _add_security(operation, find_rule(method.upper(), path))
                responses = operation["responses"]
                responses.pop("422", None)
                # 403: the page that sent a request which changes state is of another origin.
                statuses = COMMON_ERROR_STATUSES if method.upper() in SAFE_METHODS else (403, *COMMON_ERROR_STATUSES)
                for status, answer in openapi_problems(*statuses).items():
                    responses.setdefault(str(status), answer)
        app.openapi_schema = document
    return app.openapi_schema
