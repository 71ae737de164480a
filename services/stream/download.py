"""Downloads: finds the file, plans the response, sends the blocks. Plain ASGI, because a router would cost more than the bytes.

The version of the file is fixed when the response begins; replacing the file does not change it. A missing block resets the
connection, because the length has been sent already.
"""

import asyncio
import logging
from datetime import UTC, datetime

from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.auth.identity import SCOPE_KEY, Identity, link_of
from services.common.auth.signed_links import Link
from services.common.errors import ServiceUnavailable
from services.common.http.encoding import PreparedResponse
from services.common.media import MediaInfo, MediaName
from services.common.media_address import parse_address
from services.common.server.connection_info import connection_info
from services.common.store.errors import CorruptFile
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.link_versions import require_version, version_must_exist
from services.stream.metadata_cache import MetadataCache
from services.stream.preconditions import bypasses_cache
from services.stream.request_headers import select_headers
from services.stream.response_plan import Representation, ResponsePlan, plan_response
from services.stream.response_sender import (
    HIGH_WATER_BYTES,
    ClientStalled,
    ResponseSender,
    SendTimeoutMonitor,
)

FIRST_BYTE_TIMEOUT_SECONDS = 9.0
"""For finding a file and its first block together, so that every request is answered within 10 s."""

_log = logging.getLogger("gridcast.stream")


class FileDownload:
    """GET and HEAD of a file as an ASGI callable."""

    def __init__(
        self, metadata_cache: MetadataCache, block_cache: BlockCache, send_timeout: SendTimeoutMonitor
    ) -> None:
        self._metadata_cache = metadata_cache
        self._block_cache = block_cache
        self._send_timeout = send_timeout

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        """Return the response if all of it is in memory and at most HIGH_WATER_BYTES long, else None. Raises GridcastError."""
        name, headers = parse_address(scope), select_headers(scope["headers"])
        file = None if bypasses_cache(headers.get("cache-control", "")) else self._metadata_cache.get(name)
        if file is None:
            return None
        identity: Identity | None = scope.get(SCOPE_KEY)
        if identity is not None and identity.link is not None:
            require_version(identity.link, file.info)
        reply = plan_response(scope["method"], headers, file, datetime.now(UTC))
        body = self._from_cache(file.info, reply)
        return None if body is None else PreparedResponse(reply.status, reply.headers, reply.preencoded_headers, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises GridcastError only before the response has started."""
        name, method, headers = parse_address(scope), scope["method"], select_headers(scope["headers"])
        file = None if bypasses_cache(headers.get("cache-control", "")) else self._metadata_cache.get(name)
        sender = ResponseSender(receive, send, self._send_timeout, connection_info(scope))
        try:
            with sender:
                await self._respond(sender, name, method, headers, file, link_of(scope))
        except CorruptFile as error:
            metrics.CORRUPT_FILES.inc()
            _log.error("response aborted: %s", error)  # the text says all
        except ClientStalled:
            _log.info("response aborted: send timeout after %g s", self._send_timeout.timeout_seconds)
        except ClientDisconnected:
            pass  # no client is left to answer
        except asyncio.CancelledError:  # by the server, when the shutdown timeout is over
            if not sender.started:
                raise ServiceUnavailable("the service is shutting down") from None
            _log.warning("response aborted: the service is shutting down")

    async def _respond(
        self,
        sender: ResponseSender,
        name: MediaName,
        method: str,
        headers: dict[str, str],
        representation: Representation | None,
        link: Link | None,
    ) -> None:
        """Look the file up and send the response, with one timeout for everything until the head is sent."""
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_SECONDS) as silence:
                if representation is None:
                    fresh = bypasses_cache(headers.get("cache-control", ""))
                    with version_must_exist(link):
                        representation = await self._metadata_cache.get_or_fetch(name, bypass_cache=fresh)
                while True:
                    if link is not None:
                        require_version(link, representation.info)
                    reply = plan_response(method, headers, representation, datetime.now(UTC))
                    try:
                        await self._send_response(sender, representation.info, reply, silence)
                    except CorruptFile:
                        if sender.started:
                            raise
                        # The cached version may have been replaced and its blocks deleted. If it is current, blocks are missing.
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
        """Return a body that needs no waiting: an empty one, or at most HIGH_WATER_BYTES out of cached blocks; else None."""
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
        # Copying 64 KiB costs less than two writes.
        return b"".join((memoryview(block)[begin:], memoryview(rest)[: end - self._block_cache.block_size]))

    async def _send_response(
        self, sender: ResponseSender, info: MediaInfo, plan: ResponsePlan, first_byte_timeout: asyncio.Timeout
    ) -> None:
        """Send the head together with the first block: until then an unavailable store can still be answered with 503."""
        size, literal = self._block_cache.block_size, b""
        for item in plan.body_parts:
            if isinstance(item, bytes):
                literal = item
                continue
            first, last = item.first // size, item.last // size
            with self._block_cache.open_reader(info, first, last) as reader:
                for number in range(first, last + 1):
                    sender.pause_send_timeout()
                    block = await reader.read(number)
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
        if not sender.started:  # an empty body
            await sender.send_head(plan)
        await sender.send_last_chunk(literal)
