"""Answers requests for lists, initialisation segments, segments and messages of live streams. Plain ASGI, as downloads are.

What is in memory and small is answered without a task (`fast_path`). A request for a list with a segment that is to come is held.
"""

import asyncio
import gzip as gzip_format
import logging
from datetime import UTC, datetime

from services.common.asgi import ClientDisconnected, Receive, Scope, Send
from services.common.auth.authorization import missing_right
from services.common.auth.credentials import find_link
from services.common.auth.identity import identity_of, link_of
from services.common.errors import BadRequest, GridcastError, NotFound, ServiceUnavailable
from services.common.http.accepted_coding import accepts_gzip
from services.common.http.encoding import NO_HEADERS, Field, PreparedResponse
from services.common.http.headers import find_header, forwarded_client
from services.common.live.addresses import LiveAddress, parse_live_address
from services.common.live.multivariant import render_multivariant
from services.common.live.reload import InvalidReload, Reload, decide, hold_seconds
from services.common.server.connection_info import ConnectionInfo, connection_info
from services.common.store.live_messages import LiveMessages
from services.common.telemetry import metrics
from services.stream.download import FIRST_BYTE_TIMEOUT_SECONDS
from services.stream.live.list_requests import (
    ListRequest,
    list_cache_control,
    list_headers,
    media_uri,
    parse_list_request,
)
from services.stream.live.loaders import StreamLoaders
from services.stream.live.messages import message_headers, parse_message_request, render_messages
from services.stream.live.pieces import WRITE_BYTES, Piece, PieceReader
from services.stream.live.renderings import View
from services.stream.live.stream_loader import StreamLoader
from services.stream.live.viewers import ViewerCounter
from services.stream.request_headers import select_headers
from services.stream.response_plan import ResponsePlan, plan_response
from services.stream.response_sender import HIGH_WATER_BYTES, ClientStalled, ResponseSender, SendTimeoutMonitor

_log = logging.getLogger("gridcast.stream.live")


class LiveHandler:
    """GET and HEAD of everything below `/live/` that viewers need.

    Arguments:
        loaders: know the streams.
        pieces: reads segments.
        messages: reads messages.
        viewers: counts who asks.
        send_timeout: ends responses to clients that do not read.
        cache_scope: `public` where all may read everything, else `private`.

    """

    def __init__(
        self,
        loaders: StreamLoaders,
        pieces: PieceReader,
        messages: LiveMessages,
        viewers: ViewerCounter,
        send_timeout: SendTimeoutMonitor,
        cache_scope: str,
    ) -> None:
        self._loaders = loaders
        self._pieces = pieces
        self._messages = messages
        self._viewers = viewers
        self._send_timeout = send_timeout
        self._cache_scope = cache_scope

    def fast_path(self, scope: Scope) -> PreparedResponse | None:
        """Return the response if all of it is in memory and at most HIGH_WATER_BYTES long, else None. Raises GridcastError."""
        address = _address(scope)
        if address.number >= 0:
            return self._prepare_segment(scope, address)
        loader = self._loaders.get(address.stream_id) if address.kind == "media" else None
        if loader is None:
            return None
        _check_rights(scope, loader)
        request = parse_list_request(scope["query_string"])
        playlist, reload = loader.playlist, request.reload
        if not playlist.is_listable or _decide(loader, reload) == "hold":
            return None
        gzip = _takes_gzip(scope)
        body = loader.renderings.get(_view(scope, loader, request), gzip=gzip)
        if body is None or len(body) > HIGH_WATER_BYTES:
            return None
        self._count(scope, loader)
        return PreparedResponse(
            200, self._list_headers(loader, reload, len(body), gzip=gzip), NO_HEADERS, _body(scope, body)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises GridcastError only before the response has started."""
        address, connection = _address(scope), connection_info(scope)
        try:
            if address.kind in {"index", "media"}:
                await self._answer_list(scope, address, receive, send, connection)
            elif address.kind == "messages":
                await self._answer_messages(scope, address, receive, send, connection)
            else:
                await self._answer_piece(scope, address, receive, send, connection)
        except ClientStalled:
            _log.info("response aborted: send timeout after %g s", self._send_timeout.timeout_seconds)
        except ClientDisconnected:
            metrics.LIVE_RELOADS.labels("disconnected").inc()

    # Lists.

    async def _answer_list(
        self, scope: Scope, address: LiveAddress, receive: Receive, send: Send, connection: ConnectionInfo
    ) -> None:
        request = parse_list_request(scope["query_string"])
        gzip = _takes_gzip(scope)
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_SECONDS):
                loader = await self._loaders.open(address.stream_id)
                _check_rights(scope, loader)
                self._count(scope, loader)
                if not loader.playlist.is_listable:
                    await _ask_again(loader)  # who heard that the stream has begun may be faster than the wake-up
                if not loader.playlist.is_listable:
                    ended = loader.stream.state == "ended"
                    raise NotFound(
                        f"the stream {'has ended without a segment' if ended else 'is too short yet to be listed'}"
                    )
                if address.kind == "index":
                    body, headers = self._multivariant(scope, loader, request, gzip=gzip)
                else:
                    is_final = await self._wait(loader, request.reload, connection)
                    body = await loader.renderings.render(_view(scope, loader, request), gzip=gzip)
                    headers = self._list_headers(loader, request.reload, len(body), gzip=gzip, is_final=is_final)
        except TimeoutError:
            raise ServiceUnavailable("the store does not respond") from None
        await self._send(scope, receive, send, connection, headers, _body(scope, body))

    async def _wait(self, loader: StreamLoader, reload: Reload, connection: ConnectionInfo) -> bool:
        """Hold a request until its segment is there; return False where it is answered without.

        Raises BadRequest for a segment too far ahead, ServiceUnavailable where too many requests wait, or none comes in time.
        """
        if _is_ahead(loader, reload):
            await loader.ask_again()  # another replica may have listed more
        if reload.sequence is None or _decide(loader, reload) == "answer":
            return True
        target = loader.playlist.target
        with self._loaders.park(loader):
            is_there = await loader.wait_for(reload.sequence, hold_seconds(target), connection.peer_disconnected)
        if is_there:
            metrics.LIVE_RELOADS.labels("answered").inc()
            return True
        if loader.stream.state == "interrupted":  # players take an error for the end of the stream (ADR 48)
            metrics.LIVE_RELOADS.labels("unchanged").inc()
            return False
        metrics.LIVE_RELOADS.labels("late").inc()
        raise ServiceUnavailable("the next segment has not come in time", retry_after=max(1, target // 2))

    def _multivariant(
        self, scope: Scope, loader: StreamLoader, request: ListRequest, *, gzip: bool
    ) -> tuple[bytes, list[Field]]:
        uri = media_uri(request, _link(scope))
        body = render_multivariant(loader.init, loader.playlist.segments, uri).encode("ascii")
        if gzip:
            body = gzip_format.compress(body, mtime=0)
        return body, self._list_headers(loader, Reload(), len(body), gzip=gzip)

    def _list_headers(
        self, loader: StreamLoader, reload: Reload, length: int, *, gzip: bool, is_final: bool = True
    ) -> list[Field]:
        playlist = loader.playlist
        control = list_cache_control(self._cache_scope, playlist.target, reload, ended=playlist.ended)
        return list_headers(length, control if is_final else b"no-store", gzip=gzip)

    async def _send(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        connection: ConnectionInfo,
        headers: list[Field],
        body: bytes,
    ) -> None:
        """Send a list: in one message where it is short, as most of a thousand that are woken together."""
        if connection.extended_start and len(body) <= HIGH_WATER_BYTES and scope["method"] != "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": headers, "body": body})
            return
        view = memoryview(body)
        with ResponseSender(receive, send, self._send_timeout, connection) as sender:
            await sender.send_head(ResponsePlan(200, headers, NO_HEADERS, ()))
            for begin in range(0, len(body), WRITE_BYTES):
                await sender.send_chunk(view[begin : begin + WRITE_BYTES])
                await sender.drain()
            await sender.send_last_chunk(b"")

    # Messages.

    async def _answer_messages(
        self, scope: Scope, address: LiveAddress, receive: Receive, send: Send, connection: ConnectionInfo
    ) -> None:
        request = parse_message_request(scope["query_string"])
        try:
            async with asyncio.timeout(FIRST_BYTE_TIMEOUT_SECONDS):
                loader = await self._loaders.open(address.stream_id)
                _check_rights(scope, loader)
                found = await self._messages.read_messages(address.stream_id, *request)
        except TimeoutError:
            raise ServiceUnavailable("the store does not respond") from None
        body = render_messages(found, request.limit)
        headers = message_headers(len(body), self._cache_scope, ended=loader.playlist.ended)
        await self._send(scope, receive, send, connection, headers, _body(scope, body))

    # Segments and initialisation segments.

    def _prepare_segment(self, scope: Scope, address: LiveAddress) -> PreparedResponse | None:
        loader = self._loaders.get_recent(address.stream_id)
        segment = None if loader is None else loader.find_segment(address.epoch, address.number)
        if loader is None or segment is None or segment.size > HIGH_WATER_BYTES:
            return None
        _check_rights(scope, loader)
        piece = self._pieces.get(loader, segment)
        if piece is None:
            return None
        plan = plan_response(scope["method"], select_headers(scope["headers"]), piece.representation, datetime.now(UTC))
        body = b"".join(piece.iter_chunks(plan))
        if len(body) > HIGH_WATER_BYTES:  # several ranges that overlap
            return None
        self._count(scope, loader)
        return PreparedResponse(plan.status, plan.headers, plan.preencoded_headers, body)

    async def _answer_piece(
        self, scope: Scope, address: LiveAddress, receive: Receive, send: Send, connection: ConnectionInfo
    ) -> None:
        with ResponseSender(receive, send, self._send_timeout, connection) as sender:
            try:
                async with asyncio.timeout(FIRST_BYTE_TIMEOUT_SECONDS) as silence:
                    loader = self._loaders.get_recent(address.stream_id) or await self._loaders.open(address.stream_id)
                    _check_rights(scope, loader)
                    piece = await self._find_piece(loader, address)
                    self._count(scope, loader)
                    headers, now = select_headers(scope["headers"]), datetime.now(UTC)
                    plan = plan_response(scope["method"], headers, piece.representation, now)
                    sender.pause_send_timeout()
                    async for chunk in self._pieces.read(loader, piece, plan):
                        if not sender.started:
                            silence.reschedule(None)
                            await sender.send_head(plan)
                        await sender.send_chunk(chunk)
                        await sender.drain()
                        sender.pause_send_timeout()
                    if not sender.started:  # no body
                        await sender.send_head(plan)
            except TimeoutError:
                raise ServiceUnavailable("the store does not respond") from None
            await sender.send_last_chunk(b"")

    async def _find_piece(self, loader: StreamLoader, address: LiveAddress) -> Piece:
        """Return what an address is of. Raises NotFound, ServiceUnavailable."""
        if address.kind == "init":
            if (epoch := loader.find_epoch(address.epoch)) is None:
                await _ask_again(loader)
                epoch = loader.find_epoch(address.epoch)
            if epoch is None:
                raise NotFound("the stream has no such epoch")
            return self._pieces.of_epoch(loader, epoch)
        segment = loader.find_segment(address.epoch, address.number)
        if segment is None and address.number > loader.playlist.last_number:
            await _ask_again(loader)
            segment = loader.find_segment(address.epoch, address.number)
        if segment is None:
            raise NotFound("the stream has no such segment")
        return self._pieces.of_segment(loader, segment)

    def _count(self, scope: Scope, loader: StreamLoader) -> None:
        peer = scope.get("client")
        address = forwarded_client(scope["headers"], peer[0] if peer else "unknown")
        agent = find_header(scope["headers"], b"user-agent") or b""
        self._viewers.add(loader.stream_id, loader.playlist.target, address, agent.decode("latin-1"))


async def _ask_again(loader: StreamLoader) -> None:
    """Ask for what is not known: another replica may have listed it. Without the store it is not there."""
    try:
        await loader.ask_again()
    except NotFound:
        raise
    except GridcastError:
        _log.debug("live stream %s: the store is not there", loader.stream_id)


def _address(scope: Scope) -> LiveAddress:
    address = parse_live_address(scope["path"])
    if address is None:  # a route that is no address: an epoch of letters, a number with a leading zero
        raise NotFound("resource not found")
    return address


def _check_rights(scope: Scope, loader: StreamLoader) -> None:
    """Raise where a token does not allow the stream's folder. A link was compared with the address when it was authorised."""
    identity = identity_of(scope)
    if identity is None or identity.link is not None:
        return
    if not identity.rights.may_folder("read", loader.stream.new.name.folder):
        raise missing_right(identity, "read")


def _is_ahead(loader: StreamLoader, reload: Reload) -> bool:
    try:
        decide(reload, loader.playlist.last_number, ended=loader.playlist.ended)
    except InvalidReload:
        return True
    return False


def _decide(loader: StreamLoader, reload: Reload) -> str:
    try:
        return decide(reload, loader.playlist.last_number, ended=loader.playlist.ended)
    except InvalidReload as error:
        raise BadRequest(str(error)) from None


def _view(scope: Scope, loader: StreamLoader, request: ListRequest) -> View:
    window = request.window if request.window is not None else (loader.stream.new.window or 0)
    return View(window, request.reload.skip and not window, _link(scope))


def _link(scope: Scope) -> str:
    return "" if link_of(scope) is None else find_link(scope["query_string"]) or ""


def _takes_gzip(scope: Scope) -> bool:
    values = [value for name, value in scope["headers"] if name == b"accept-encoding"]
    return bool(values) and accepts_gzip(b",".join(values).decode("latin-1"))


def _body(scope: Scope, body: bytes) -> bytes:
    return b"" if scope["method"] == "HEAD" else body
