"""The flow of a read: find the file, plan the answer, send the blocks. Plain ASGI, because a router would cost more than the bytes.

The file is pinned when the answer begins: a replace in the middle changes nothing for it. A block that is missing cuts the
connection, since the length has been promised.
"""

import asyncio
import logging
from datetime import UTC, datetime

from services.common import metrics
from services.common.answer import Ready
from services.common.errors import Unavailable
from services.common.media import MediaInfo, MediaName
from services.common.store.reading import BrokenFile
from services.common.web import Receive, Scope, Send
from services.stream.cache import BlockCache
from services.stream.catalogue import Catalogue
from services.stream.conditions import wants_fresh
from services.stream.outlet import BUFFER, Gone, Outlet, Patience, Stalled
from services.stream.query import name_in
from services.stream.reply import Reply, Representation, plan

HEAD_SECONDS = 9.0
"""For finding a file and its first block together: nothing stays silent for 10 s."""

_log = logging.getLogger("gridcast.stream")
# The fields that decide an answer; the others are not worth decoding.
_READ = {
    b"range": "range",
    b"if-range": "if-range",
    b"if-match": "if-match",
    b"if-none-match": "if-none-match",
    b"if-modified-since": "if-modified-since",
    b"if-unmodified-since": "if-unmodified-since",
    b"cache-control": "cache-control",
}


class FileStream:
    """GET and HEAD of a file as an ASGI callable."""

    def __init__(self, catalogue: Catalogue, cache: BlockCache, patience: Patience) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._patience = patience

    def at_once(self, scope: Scope) -> Ready | None:
        """The answer where all of it is in memory and no more than BUFFER. Raises GridcastError."""
        name, headers = name_in(scope["query_string"]), _fields(scope["headers"])
        file = None if wants_fresh(headers.get("cache-control", "")) else self._catalogue.recall(name)
        if file is None:
            return None
        reply = plan(scope["method"], headers, file, datetime.now(UTC))
        body = self._at_hand(file.info, reply)
        return None if body is None else Ready(reply.status, reply.headers, reply.shared, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or raise GridcastError before the answer has begun."""
        name, method, headers = name_in(scope["query_string"]), scope["method"], _fields(scope["headers"])
        file = None if wants_fresh(headers.get("cache-control", "")) else self._catalogue.recall(name)
        outlet = Outlet(receive, send, self._patience, scope["extensions"]["gridcast"])
        try:
            with outlet:
                await self._answer(outlet, name, method, headers, file)
        except BrokenFile as error:
            metrics.BROKEN_FILES.inc()
            _log.error("answer cut: %s", error)  # the text says all
        except Stalled:
            _log.info("answer cut: the client took nothing for %g s", self._patience.seconds)
        except Gone:
            pass  # nobody is left to be told
        except asyncio.CancelledError:  # uvicorn, when the time for draining is over
            if not outlet.began:
                raise Unavailable("the service is shutting down") from None
            _log.warning("answer cut: the service is shutting down")

    async def _answer(
        self, outlet: Outlet, name: MediaName, method: str, headers: dict[str, str], file: Representation | None
    ) -> None:
        """With what has to be waited for: one time for all of it, until the head is sent."""
        try:
            async with asyncio.timeout(HEAD_SECONDS) as silence:
                if file is None:
                    file = await self._catalogue.find(name, fresh=wants_fresh(headers.get("cache-control", "")))
                while True:
                    reply = plan(method, headers, file, datetime.now(UTC))
                    try:
                        await self._send(outlet, file.info, reply, silence)
                    except BrokenFile:
                        if outlet.began:
                            raise
                        # What was remembered may have been replaced since, and its blocks deleted. If not, they are missing.
                        newer = await self._catalogue.find(name, fresh=True)
                        if newer.info.file == file.info.file:
                            await outlet.head(reply)
                            raise
                        file = newer
                    else:
                        return
        except TimeoutError as error:
            raise Unavailable("the store does not answer") from error

    def _at_hand(self, info: MediaInfo, reply: Reply) -> bytes | memoryview | None:
        """A body for which nobody has to be waited for: nothing, or what fits into the buffer out of blocks that are here."""
        if not reply.body:
            return b""
        part = reply.body[0]
        if isinstance(part, bytes) or (length := part.length) > BUFFER:
            return None
        number, begin = divmod(part.first, self._cache.block_size)
        end = begin + length
        split = end > self._cache.block_size
        if split and not self._cache.has(info.file, number + 1):
            return None
        if (block := self._cache.get(info.file, number)) is None:
            return None
        if not split:
            return memoryview(block)[begin:end]
        rest = self._cache.get(info.file, number + 1) or b""
        # A copy of 64 KiB costs less than sending two pieces.
        return b"".join((memoryview(block)[begin:], memoryview(rest)[: end - self._cache.block_size]))

    async def _send(self, outlet: Outlet, info: MediaInfo, reply: Reply, silence: asyncio.Timeout) -> None:
        """The head goes with the first block: until then a store that is away can still become a 503."""
        size, literal = self._cache.block_size, b""
        for item in reply.body:
            if isinstance(item, bytes):
                literal = item
                continue
            first, last = item.first // size, item.last // size
            with self._cache.walk(info, first, last) as walk:
                for number in range(first, last + 1):
                    outlet.waits()
                    block = await walk.take(number)
                    if not outlet.began:
                        silence.reschedule(None)
                        await outlet.head(reply)
                    if literal:
                        await outlet.piece(literal)
                        literal = b""
                    begin = item.first - number * size if number == first else 0
                    end = item.last - number * size + 1 if number == last else size
                    piece = block if end - begin == len(block) else memoryview(block)[begin:end]
                    del block
                    await outlet.piece(piece)
                    del piece
                    await outlet.room()
        if not outlet.began:  # a body of nothing
            await outlet.head(reply)
        await outlet.end(literal)


def _fields(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by name; several of one name are one list (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for name, value in raw:
        if (key := _READ.get(name)) is not None:
            text = value.decode("latin-1")
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields
