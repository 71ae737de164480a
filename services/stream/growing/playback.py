"""GET and HEAD /upload/{address}/stream: serves what is there of an upload, and waits a bounded time for what comes.

The address is the right to read. It works until the outcome of the upload is forgotten: a player that has begun while the file was
uploaded goes on after the commit, by the same address and the same entity tag. With authentication on it ends with the token that
began the upload, with its subject and with its link, when these are revoked (`auth.play_seals`).
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.auth.factory import Auth
from services.common.auth.identity import Identity
from services.common.errors import Gone, InvalidLink, InvalidToken, NotFound, ServiceUnavailable
from services.common.http.encoding import Field, PreencodedHeaders
from services.common.server.connection_info import connection_info
from services.common.store.errors import CorruptFile
from services.common.store.play_addresses import PlayAddress, parse_play_address
from services.common.store.upload_playback import UploadPlayback
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.growing.followed_upload import FollowedUpload, FollowedUploads, Starved, upload_ended
from services.stream.growing.growing_blocks import GROWING_CACHE_BYTES, GrowingBlocks
from services.stream.growing.plan import GrowingPlan, first_position, plan_growing
from services.stream.inline_types import ATTACHMENT_POLICY, INLINE_POLICY, is_inline
from services.stream.openapi import PLAY_TEMPLATE
from services.stream.response_plan import ResponsePlan
from services.stream.response_sender import ClientStalled, ResponseSender, SendTimeoutMonitor

RETRY_AFTER_SECONDS = 1

_log = logging.getLogger("gridcast.stream")


class UploadPlaybackRoute:
    """The route as an ASGI callable, between `open` and `aclose`."""

    _uploads: FollowedUploads
    _cache: BlockCache
    _send_timeout: SendTimeoutMonitor

    _auth: Auth | None

    def open(
        self, playback: UploadPlayback, files: BlockCache, send_timeout: SendTimeoutMonitor, auth: Auth | None
    ) -> None:
        """Begin to serve uploads; `files` reads those that are complete."""
        self._auth = auth
        self._cache = BlockCache(GrowingBlocks(playback), GROWING_CACHE_BYTES)
        self._uploads = FollowedUploads(playback, self._cache, files)
        self._send_timeout = send_timeout

    @contextmanager
    def play(self, address: str) -> Iterator[FollowedUpload]:
        """Follow the upload at an address for one request, until who began it is revoked.

        Raises NotFound for no address, Gone for one without its seal, InvalidToken, InvalidLink, and ServiceUnavailable where there
        are too many.
        """
        with self._authorized(address), self._uploads.play(_parse(address)) as upload:
            yield upload

    async def aclose(self) -> None:
        """End what is in the background."""
        await self._uploads.aclose()
        await self._cache.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises GridcastError only before the response has started."""
        scope["route"] = PLAY_TEMPLATE
        text: str = scope["path_params"]["address"]
        address = _parse(text)
        sender = ResponseSender(receive, send, self._send_timeout, connection_info(scope))
        outcome = "refused"
        try:
            with self._authorized(text), sender, self._uploads.play(address) as upload:
                outcome = await self._respond(sender, scope, address, upload)
        except CorruptFile as error:
            metrics.CORRUPT_FILES.inc()
            _log.error("response aborted: %s", error)  # the text says all
            outcome = "corrupt"
            if not sender.started:
                raise ServiceUnavailable("the bytes of this upload cannot be read") from error
        except (InvalidToken, InvalidLink):
            outcome = "ended"
            if not sender.started:
                raise upload_ended() from None
            _log.info("response aborted: who began the upload was revoked")
        except ClientStalled:
            outcome = "stalled"
        except ClientDisconnected:
            outcome = "disconnected"
        except asyncio.CancelledError:  # by the server, when the shutdown timeout is over
            if not sender.started:
                raise ServiceUnavailable("the service is shutting down") from None
            _log.warning("response aborted: the service is shutting down")
        finally:
            metrics.UPLOAD_PLAYER_RESPONSES.labels(outcome).inc()

    @contextmanager
    def _authorized(self, sealed_address: str) -> Iterator[None]:
        """Let the response go on until who began the upload is revoked: InvalidToken, InvalidLink. Raises Gone without a seal."""
        if self._auth is None:
            yield
            return
        identity: Identity | None = self._auth.play_seals.open(sealed_address)
        if identity is None:
            raise upload_ended()
        self._auth.revocations.check(identity)
        with self._auth.active_requests.track(identity):
            yield

    async def _respond(self, sender: ResponseSender, scope: Scope, address: PlayAddress, upload: FollowedUpload) -> str:
        """Send the response; returns how it ended. One that ends without its last chunk resets the connection."""
        try:
            await self._send_response(sender, scope, address, upload)
        except Starved:
            if not sender.started:
                raise ServiceUnavailable("these bytes are not there yet", RETRY_AFTER_SECONDS) from None
            return "starved"
        except (Gone, ServiceUnavailable) as error:
            if not sender.started:
                raise
            _log.info("response aborted: %s", error)
            return "ended" if isinstance(error, Gone) else "unavailable"
        return "complete"

    async def _send_response(
        self, sender: ResponseSender, scope: Scope, address: PlayAddress, upload: FollowedUpload
    ) -> None:
        is_disconnected = connection_info(scope).peer_disconnected
        await upload.look()
        plan, content_type = await self._plan(scope, address, upload)
        headers = [*plan.headers, *_headers_of(upload, address, content_type)]
        await sender.send_head(ResponsePlan(plan.status, headers, PreencodedHeaders(()), ()))
        position, end = plan.first, plan.first if scope["method"] == "HEAD" else plan.end
        while end is None or position < end:
            sender.pause_send_timeout()
            piece = await upload.read(position, is_disconnected)
            if not piece:
                break
            piece = piece if end is None else piece[: end - position]
            position += len(piece)
            await sender.send_chunk(piece)
            await sender.drain()
        await sender.send_last_chunk(b"")

    async def _plan(self, scope: Scope, address: PlayAddress, upload: FollowedUpload) -> tuple[GrowingPlan, str]:
        is_disconnected = connection_info(scope).peer_disconnected
        wanted = _range_of(scope, address)
        content_type = await upload.content_type(is_disconnected)
        if upload.length is None:
            await upload.wait_for(first_position(wanted), is_disconnected)
        return plan_growing(scope["method"], wanted, upload.available, upload.length), content_type


def _parse(text: str) -> PlayAddress:
    if (address := parse_play_address(text)) is None:
        raise NotFound("this is no address of an upload")
    return address


def _headers_of(upload: FollowedUpload, address: PlayAddress, content_type: str) -> list[Field]:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"cache-control", b"no-store"),
        (b"content-disposition", b"inline" if is_inline(content_type) else b"attachment"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", INLINE_POLICY if is_inline(content_type) else ATTACHMENT_POLICY),
    ]
    # Without a length there is no telling what the complete representation is.
    return headers if upload.length is None else [(b"etag", _etag_of(address)), *headers]


def _etag_of(address: PlayAddress) -> bytes:
    """The entity tag of the file that the upload becomes, at this address alone: the same before and after the commit."""
    return b'"upload-%s"' % address.record_id.encode("ascii")


def _range_of(scope: Scope, address: PlayAddress) -> str | None:
    """Return the Range that applies: not with an If-Range that names something else (RFC 9110, 13.1.5)."""
    fields = {name: value for name, value in scope["headers"] if name in {b"range", b"if-range"}}
    condition = fields.get(b"if-range")
    if b"range" not in fields or (condition is not None and condition.strip() != _etag_of(address)):
        return None
    stated: bytes = fields[b"range"]
    return stated.decode("latin-1")
