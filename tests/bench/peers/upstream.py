"""The service behind gateways that are compared: one raw ASGI application on uvicorn with as little work as possible.

GET /file/info, a small response; GET /file/stream?filename=BYTES, a large one; PUT /file/stream, a body read and discarded;
/ws, which echoes, and whose sockets with `?meta=GROUP` receive each POST /sockets/messages?topic=GROUP.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SMALL = b'{"filename":"video.webm","folder":"demo","length":1048576,"content_type":"video/webm","id":"6741b0c0d2f1a0b3c4d5e6f7"}'
PIECE = bytes(256 * 1024)
TEXT = '{"type":"bench.tick","data":{"text":"a message of the size of a chat line, neither short nor long"}}'

_groups: dict[str, set[Send]] = defaultdict(set)


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """ASGI."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("ascii")).items()}
    if scope["type"] == "websocket":
        await _socket(query.get("meta", ""), receive, send)
    elif scope["method"] == "PUT":
        while (await receive()).get("more_body"):
            pass
        await _answer(send, SMALL)
    elif scope["method"] == "POST":
        for one in list(_groups[query["topic"]]):
            await one({"type": "websocket.send", "text": TEXT})
        await _answer(send, SMALL)
    elif scope["path"] == "/file/stream":
        await _large(int(query["filename"]), send)
    else:
        await _answer(send, SMALL)


async def _answer(send: Send, body: bytes) -> None:
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _large(length: int, send: Send) -> None:
    fields = [(b"content-type", b"video/webm"), (b"content-length", str(length).encode("ascii"))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    while length:
        piece = PIECE[:length]
        length -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": length > 0})


async def _socket(group: str, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    _groups[group].add(send)
    await send({"type": "websocket.send", "text": '{"sid":"one of many"}'})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    _groups[group].discard(send)
