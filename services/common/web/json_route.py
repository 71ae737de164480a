"""The route class for requests with a JSON body: checks the header fields before FastAPI parses the body."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.common.http.content_coding import require_identity_coding


class JSONRoute(APIRoute):
    """A route whose body is refused with 415 where it is not plain JSON. Its request then is not read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls."""
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            require_identity_coding(request.scope["headers"])
            return await handle(request)

        return check_and_handle
