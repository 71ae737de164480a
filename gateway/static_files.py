"""Serves the web page, the JavaScript client that it uses, the API documentation and the AsyncAPI document."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Response

from services.common.errors import NotFound

PAGE_DIR = Path(__file__).parent / "page"
ASYNCAPI_PATH = PAGE_DIR / "asyncapi.yaml"
"""In this package, so that the image has it; docs/asyncapi.yaml is a link to it."""
CLIENT_DIR = Path(__file__).parents[1] / "clients" / "js" / "src"
"""The modules of @gridcast/client. Those in folders below need a bundler, because they import packages."""
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
    "img-src 'self' blob: data:; frame-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class _StaticFolder:
    """The files of a folder that browsers load, which are read once."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _CONTENT_TYPES}

    def response(self, name: str) -> Response:
        """Return the response for the file of this name. Raises NotFound."""
        if (content := self._files.get(name)) is None:
            raise NotFound("resource not found")
        return Response(content, headers={**_SECURITY_HEADERS, "content-type": _CONTENT_TYPES[Path(name).suffix]})


def add_static_routes(app: FastAPI) -> None:
    """Add routes for the files of page/ and of the client. The policy of the pages allows no other origin."""
    page_files, client_modules = _StaticFolder(PAGE_DIR), _StaticFolder(CLIENT_DIR)

    async def page() -> Response:
        return page_files.response("index.html")

    async def docs() -> Response:
        return page_files.response("docs.html")

    async def part(name: str) -> Response:
        return page_files.response(name)

    async def client(name: str) -> Response:
        return client_modules.response(name)

    asyncapi_document = ASYNCAPI_PATH.read_bytes()

    async def asyncapi() -> Response:
        # RFC 9512. AsyncAPI's own type, application/vnd.aai.asyncapi+yaml, is not registered.
        headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff", "content-type": "application/yaml"}
        return Response(asyncapi_document, headers=headers)

    routes: dict[str, Callable[..., Awaitable[Response]]] = {
        "/asyncapi.yaml": asyncapi,
        "/": page,
        "/docs": docs,
        "/page/{name}": part,
        "/client/{name}": client,
    }
    for path, endpoint in routes.items():
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
