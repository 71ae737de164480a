"""Serves the web page, the API documentation and the AsyncAPI document."""

from pathlib import Path

from fastapi import FastAPI, Response

from services.common.errors import NotFound

PAGE_DIR = Path(__file__).parent / "page"
ASYNCAPI_PATH = PAGE_DIR / "asyncapi.yaml"
"""In this package, so that the image has it; docs/asyncapi.yaml is a link to it."""
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_static_routes(app: FastAPI) -> None:
    """Add routes for the files of page/, which are read once. The policy of the pages allows no other origin."""
    files = {path.name: path.read_bytes() for path in PAGE_DIR.iterdir() if path.suffix in _CONTENT_TYPES}

    def file(name: str) -> Response:
        if (content := files.get(name)) is None:
            raise NotFound("resource not found")
        return Response(content, headers={**_SECURITY_HEADERS, "content-type": _CONTENT_TYPES[Path(name).suffix]})

    async def page() -> Response:
        return file("index.html")

    async def docs() -> Response:
        return file("docs.html")

    async def part(name: str) -> Response:
        return file(name)

    asyncapi_document = ASYNCAPI_PATH.read_bytes()

    async def asyncapi() -> Response:
        # RFC 9512. AsyncAPI's own type, application/vnd.aai.asyncapi+yaml, is not registered.
        headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff", "content-type": "application/yaml"}
        return Response(asyncapi_document, headers=headers)

    for path, endpoint in (("/asyncapi.yaml", asyncapi), ("/", page), ("/docs", docs), ("/page/{name}", part)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
