"""Responses of tus endpoints: the version is required of requests, and stated in every response, errors included (tus 1.0.0)."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request, Response

from services.common.errors import GridcastError, PreconditionFailed
from services.common.http import tus

TUS_VERSION_FIELD = {"tus-resumable": tus.TUS_VERSION}


@contextmanager
def require_tus_version(request: Request) -> Iterator[None]:
    """Check the version, and add it to every error response. Raises PreconditionFailed for another one or none."""
    try:
        if request.headers.get("tus-resumable") != tus.TUS_VERSION:
            raise PreconditionFailed(f"Tus-Resumable: {tus.TUS_VERSION} is needed", {"tus-version": tus.TUS_VERSION})
        yield
    except GridcastError as error:
        error.headers.update(TUS_VERSION_FIELD)
        raise


def tus_response(status: int, headers: dict[str, str]) -> Response:
    """Return a response without a body."""
    return Response(status_code=status, headers={**TUS_VERSION_FIELD, "cache-control": "no-store", **headers})
