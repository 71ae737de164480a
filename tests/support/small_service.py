"""`python -m tests.support.small_service`: a minimal ASGI application on our server, for tests of how connections end."""

import asyncio
from collections.abc import AsyncIterator

from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.errors import Conflict
from services.common.server.run import run
from services.common.settings import Settings
from services.common.telemetry.request_telemetry import start_telemetry
from services.common.web.problems import send_problem


async def iter_request_body(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives. Raises ClientDisconnected if the client disconnects before its end."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reply 409 to a PUT after its first bytes, 1,000 of 100,000 bytes to `?half`, and `ok` to everything else, to `?slow` late."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["method"] == "PUT":
        await receive()
        await send_problem(send, Conflict("taken"), close_connection=True)
    elif scope["query_string"] == b"half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000")]})
        await send({"type": "http.response.body", "body": b"a" * 1000, "more_body": True})
        await asyncio.sleep(0.2)
    else:
        if scope["method"] == "POST":
            try:
                async for _ in iter_request_body(receive):
                    pass
            except ClientDisconnected:
                return
        if scope["query_string"] == b"slow":
            await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    settings = Settings()
    start_telemetry("small", settings)
    run(lambda: app, settings)
