"""What the gateway answers itself: the web page, the API documentation, and OPTIONS where no service claims it."""

from pathlib import Path

from fastapi import FastAPI, Response

from gateway import routes
from services.common.errors import NotFound
from services.common.web import Scope, Send

FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add(app: FastAPI) -> None:
    """Serve the files of page/, read once. They are ours: nothing comes from elsewhere, and the policy says so."""
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}

    def file(name: str) -> Response:
        if (content := files.get(name)) is None:
            raise NotFound("no such resource")
        return Response(content, headers={**_HEADERS, "content-type": _TYPES[Path(name).suffix]})

    async def page() -> Response:
        return file("index.html")

    async def docs() -> Response:
        return file("docs.html")

    async def part(name: str) -> Response:
        return file(name)

    for path, endpoint in (("/", page), ("/docs", docs), ("/page/{name}", part)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


async def options(scope: Scope, path: str, send: Send) -> bool:
    """Answer an OPTIONS that is the gateway's: a CORS preflight, or one of a resource whose service does not know it."""
    known = routes.methods(path)
    preflight = any(name == b"access-control-request-method" for name, _ in scope["headers"])
    if "OPTIONS" in known and not preflight:
        return False
    headers = [(b"allow", routes.allow(known).encode("ascii"))]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
    return True
