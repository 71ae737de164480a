"""The flow of a read: find the file, plan the answer, send the blocks. Plain ASGI, because a router would cost more than the bytes.

The file is pinned when the answer begins: a replace in the middle changes nothing for it. A block that is missing cuts the
connection, since the length has been promised.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from services.common.errors import BadRequest, GridcastError, NotFound
from services.common.media import MediaInfo, MediaName, media_name
from services.common.store.port import BrokenFile, MediaReader
from services.common.web import Receive, Scope, Send
from services.stream.ranges import ByteRange
from services.stream.reply import Reply, plan, represent

_log = logging.getLogger("gridcast.stream")


def name_in(query: bytes) -> MediaName:
    """`filename` and `folder` of a query string. Raises BadRequest."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except (UnicodeDecodeError, ValueError) as error:
        raise BadRequest("the query string is not UTF-8 in percent-encoding") from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    if "filename" not in values:
        raise BadRequest("the query parameter 'filename' is missing")
    return media_name(values.get("folder", ""), values["filename"])


async def find(reader: MediaReader, name: MediaName) -> MediaInfo:
    """The file of that name. Raises NotFound."""
    info = await reader.find(name)
    if info is None:
        raise NotFound("file not found")
    return info


class FileStream:
    """GET and HEAD of a file as an ASGI callable."""

    def __init__(self) -> None:
        self.reader: MediaReader | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or raise GridcastError before the answer has begun."""
        if self.reader is None:
            raise RuntimeError("the lifespan has not begun")
        info = await find(self.reader, name_in(scope["query_string"]))
        headers = _fields(scope["headers"])
        reply = plan(scope["method"], headers, represent(info), datetime.now(UTC))
        if scope["method"] == "HEAD" or not reply.body:
            await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
            await send({"type": "http.response.body", "body": b""})
            return
        # The server takes what is sent to a client that has gone without a word, so somebody has to look.
        gone = asyncio.create_task(_gone(receive))
        try:
            await _send(send, self.reader, info, reply, gone)
        finally:
            gone.cancel()
            await asyncio.wait({gone})


async def _send(send: Send, reader: MediaReader, info: MediaInfo, reply: Reply, gone: asyncio.Task[None]) -> None:
    began = False
    try:
        for item in reply.body:
            async with aclosing(_pieces(reader, info, item)) as pieces:
                async for piece in pieces:
                    if not began:  # only now: a store that is away can still become a 503
                        began = True
                        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if gone.done():
                        return
        await send({"type": "http.response.body", "body": b""})
    except (BrokenFile, GridcastError) as error:
        if not began and isinstance(error, GridcastError):
            raise
        # Returning without the end of the body makes the server cut the connection.
        _log.error("answer cut: %s", error)  # the text says all


async def _pieces(reader: MediaReader, info: MediaInfo, item: bytes | ByteRange) -> AsyncGenerator[bytes, None]:
    if isinstance(item, bytes):
        yield item
        return
    size = reader.block_size
    first, last = item.first // size, item.last // size
    number = first
    async with aclosing(reader.read(info, first, last)) as blocks:
        async for block in blocks:
            start = item.first - number * size if number == first else 0
            end = item.last - number * size + 1 if number == last else size
            yield block if end - start == len(block) else block[start:end]
            number += 1


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _fields(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by name; several of one name are one list (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields
