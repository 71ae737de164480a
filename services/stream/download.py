"""The flow of a read: find the file, plan the answer, send the blocks. Plain ASGI, because a router would cost more than the bytes.

The file is pinned when the answer begins: a replace in the middle changes nothing for it. A block that is missing cuts the
connection, since the length has been promised.
"""

import asyncio
import logging
from datetime import UTC, datetime

from services.common.asgi import Receive, Scope, Send
from services.common.errors import ServiceUnavailable
from services.common.http.encoding import PreparedResponse
from services.common.media import MediaInfo, MediaName
from services.common.server.connection_info import connection_info
from services.common.store.errors import CorruptFile
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.metadata_cache import MetadataCache
from services.stream.preconditions import bypasses_cache
from services.stream.query import parse_media_name
from services.stream.response_plan import Representation, ResponsePlan, plan_response
from services.stream.response_sender import (
    HIGH_WATER_BYTES,
    ClientDisconnected,
    ClientStalled,
    ResponseSender,
    SendTimeoutMonitor,
)

FIRST_BYTE_TIMEOUT_SECONDS = 9.0
"""For finding a file and its first block together: nothing stays silent for 10 s."""

_log = logging.getLogger("gridcast.stream")
# The fields that decide an answer; the others are not worth decoding.
_RELEVANT_HEADERS = {
    b"range": "range",
    b"if-range": "if-range",
    b"if-match": "if-match",
    b"if-none-match": "if-none-match",
    b"if-modified-since": "if-modified-since",
    b"if-unmodified-since": "if-unmodified-since",
    b"cache-control": "cache-control",
}


class FileDownload:
    """GET and HEAD of a file as an ASGI callable."""

    def __init__(
        self, metadata_cache: MetadataCache, block_cache: BlockCache, send_timeout: SendTimeoutMonitor
    ) -> None:
        self._metadata_cache = metadata_cache
        self._block_cache = block_cache
        self._send_timeout = send_timeout

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        """The answer where all of it is in memory and no more than BUFFER. Raises GridcastError."""
        name, headers = parse_media_name(scope["query_string"]), _select_headers(scope["headers"])
        file = None if bypasses_cache(headers.get("cache-control", "")) else self._metadata_cache.get(name)
        if file is None:
            return None
        reply = plan_response(scope["method"], headers, file, datetime.now(UTC))
        body = self._from_cache(file.info, reply)
        return None if body is None else PreparedResponse(reply.status, reply.headers, reply.preencoded_headers, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or raise GridcastError before the answer has begun."""
        name, method, headers = (
            parse_media_name(scope["query_string"]),
            scope["method"],
            _select_headers(scope["headers"]),
        )
        file = None if bypasses_cache(headers.get("cache-control", "")) else self._metadata_cache.get(name)
        outlet = ResponseSender(receive, send, self._send_timeout, connection_info(scope))
        try:
            with outlet:
                await self._respond(outlet, name, method, headers, file)
        except CorruptFile as error:
            metrics.CORRUPT_FILES.inc()
            _log.error("response aborted: %s", error)  # the text says all
        except ClientStalled:
            _log.info("response aborted: send timeout after %g s", self._send_timeout.timeout_seconds)
        except ClientDisconnected:
            pass  # nobody is left to be told
        except asyncio.CancelledError:  # uvicorn, when the time for draining is over
            if not outlet.started:
                raise ServiceUnavailable("the service is shutting down") from None
            _log.warning("response aborted: the service is shutting down")

    async def _respond(
        self,
        sender: ResponseSender,
        name: MediaName,
        method: str,
        headers: dict[str, str],
        representation: Representation | None,
    ) -> None:
        """With what has to be waited for: one time for all of it, until the head is sent."""
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_SECONDS) as silence:
                if representation is None:
                    representation = await self._metadata_cache.get_or_fetch(
                        name, bypass_cache=bypasses_cache(headers.get("cache-control", ""))
                    )
                while True:
                    reply = plan_response(method, headers, representation, datetime.now(UTC))
                    try:
                        await self._send_response(sender, representation.info, reply, silence)
                    except CorruptFile:
                        if sender.started:
                            raise
                        # What was remembered may have been replaced since, and its blocks deleted. If not, they are missing.
                        newer = await self._metadata_cache.get_or_fetch(name, bypass_cache=True)
                        if newer.info.file_id == representation.info.file_id:
                            await sender.send_head(reply)
                            raise
                        representation = newer
                    else:
                        return
        except TimeoutError as error:
            raise ServiceUnavailable("the store does not respond") from error

    def _from_cache(self, info: MediaInfo, plan: ResponsePlan) -> bytes | memoryview | None:
        """A body for which nobody has to be waited for: nothing, or what fits into the buffer out of blocks that are here."""
        if not plan.body_parts:
            return b""
        part = plan.body_parts[0]
        if isinstance(part, bytes) or (length := part.length) > HIGH_WATER_BYTES:
            return None
        number, begin = divmod(part.first, self._block_cache.block_size)
        end = begin + length
        split = end > self._block_cache.block_size
        if split and not self._block_cache.contains(info.file_id, number + 1):
            return None
        if (block := self._block_cache.get(info.file_id, number)) is None:
            return None
        if not split:
            return memoryview(block)[begin:end]
        rest = self._block_cache.get(info.file_id, number + 1) or b""
        # A copy of 64 KiB costs less than sending two pieces.
        return b"".join((memoryview(block)[begin:], memoryview(rest)[: end - self._block_cache.block_size]))

    async def _send_response(
        self, sender: ResponseSender, info: MediaInfo, plan: ResponsePlan, first_byte_timeout: asyncio.Timeout
    ) -> None:
        """The head goes with the first block: until then a store that is away can still become a 503."""
        size, literal = self._block_cache.block_size, b""
        for item in plan.body_parts:
            if isinstance(item, bytes):
                literal = item
                continue
            first, last = item.first // size, item.last // size
            with self._block_cache.open_reader(info, first, last) as walk:
                for number in range(first, last + 1):
                    sender.pause_send_timeout()
                    block = await walk.read(number)
                    if not sender.started:
                        first_byte_timeout.reschedule(None)
                        await sender.send_head(plan)
                    if literal:
                        await sender.send_chunk(literal)
                        literal = b""
                    begin = item.first - number * size if number == first else 0
                    end = item.last - number * size + 1 if number == last else size
                    piece = block if end - begin == len(block) else memoryview(block)[begin:end]
                    del block
                    await sender.send_chunk(piece)
                    del piece
                    await sender.drain()
        if not sender.started:  # a body of nothing
            await sender.send_head(plan)
        await sender.send_last_chunk(literal)


def _select_headers(raw_headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by name; several of one name are one list (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for name, value in raw_headers:
        if (key := _RELEVANT_HEADERS.get(name)) is not None:
            text = value.decode("latin-1")
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields
