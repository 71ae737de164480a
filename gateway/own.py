"""The gateway's own pages: the web page and the API documentation."""

from pathlib import Path

from fastapi import FastAPI, Response

from services.common.errors import NotFound

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
