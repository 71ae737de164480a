"""The HTTP/1.1 connection of every service and of the gateway.

A connection ends in one of three ways. A response sent before its request was read is followed by a lingering close: reading
continues for a moment, so that a reset does not destroy the response. An aborted response ends with a reset, so that the
client does not take it for a complete one. Otherwise the connection is closed when everything is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, cast

from services.common.asgi import Scope
from services.common.errors import BadRequest, GridcastError, RequestTimeout, TooManyRequests
from services.common.http.encoding import PreparedResponse, encode_error_response, encode_response_head
from services.common.http.request_head import ForwardedHeadValidator, RequestHead, RequestHeadValidator
from services.common.http.request_parser import EndOfMessage, RequestParser
from services.common.server import tcp
from services.common.server.connection_info import CONNECTION_INFO_EXTENSION, ConnectionInfo
from services.common.server.connection_state import ACTIVE, ENDED, IDLE, PARSING, ConnectionState
from services.common.server.contract import ServerConfig, ServerState
from services.common.server.cycle import RequestCycle
from services.common.server.date_header import date_header, date_line
from services.common.server.parse_turns import BYTES_PER_TURN, ParseTurns
from services.common.server.scope import AddressScope, connection_scope, http_scope
from services.common.server.timeouts import KeepAliveTimer, SendTimeout, Timeout
from services.common.server.transport import CoalescingTransport
from services.common.server.websocket.upgrade import switch_to_websocket
from services.common.telemetry.refusals import log_refusal
from services.common.telemetry.request_id import new_request_id

MAX_PIPELINED = 32
"""Requests that may wait behind the one being answered: 429 beyond."""
FAST_PATH_PER_READ = 8
"""Responses without a task out of one read, which may hold ten thousand small requests: other connections wait for their turn."""


class HTTPConnection(asyncio.Protocol):
    """One client connection: a request parser, a transport, timeouts, and a cycle for each request.

    Of uvicorn's HTTP side it uses seven names, typed in `contract`: the constructor (`config`, `server_state`, `app_state`,
    `_loop`), `config.loaded_app`, `config.ws_protocol_class`, `server_state.connections`, `server_state.tasks`,
    `server_state.total_requests` and `shutdown`.
    """

    header_timeout: ClassVar[float] = 10.0
    """Seconds for sending a head: from the connection on, or from its first byte on a kept connection."""
    keep_alive_timeout: ClassVar[float] = 75.0
    """Seconds between two requests: longer than the gateway keeps an idle connection, so that none is lost to a close."""
    linger_timeout: ClassVar[float] = 3.0
    """Seconds for which the rest of a request is read and dropped after an early response."""
    send_timeout: ClassVar[float] = 3600.0
    """Seconds within which the write buffer must shrink. A service's client is the gateway, which pauses for as long as its own
    slow client needs for a few megabytes; the gateway's timeout is shorter, see `with_send_timeout`.
    """
    shutdown_send_timeout: ClassVar[float] = 5.0
    """The same at shutdown, for responses that are already complete."""
    head_validator: ClassVar[type[RequestHeadValidator]] = ForwardedHeadValidator
    """Has the limits of a request head."""

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = loop = _loop or asyncio.get_running_loop()
        self._app = config.loaded_app
        self._fast_path: Callable[[Scope], PreparedResponse | None] | None = getattr(self._app, "fast_path", None)
        self._fast_path_left = FAST_PATH_PER_READ
        self._state = ACTIVE
        self._parser = RequestParser(self.head_validator, offers_websocket=config.ws_protocol_class is not None)
        self._active: RequestCycle | None = None  # the last one that was started; its response may be complete
        self._receiving: RequestCycle | None = None  # the one whose body is still coming in
        self._queue: deque[RequestCycle] = deque()  # pipelined behind the active one
        self._deferred_error: GridcastError | None = None
        self._eof_received = False
        self._header_timer = Timeout(loop, self._on_header_timeout)
        self._keep_alive_timer = KeepAliveTimer(loop, self.keep_alive_timeout, self._on_keep_alive_timeout)
        self._raw: asyncio.Transport
        self._transport: CoalescingTransport
        self._turns: ParseTurns
        self._send_timer: SendTimeout
        self._linger_timer: Timeout
        self._info: ConnectionInfo
        self._address = AddressScope()
        self._scope: Scope

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the client has `header_timeout` for its first head."""
        self._server_state.connections.add(self)
        self._raw = raw = cast("asyncio.Transport", transport)
        self._transport = wrapped = CoalescingTransport(raw, self._loop)
        self._turns = ParseTurns(self._loop, wrapped, self._parser, self._parse)
        self._send_timer = SendTimeout(self._loop, raw.abort, raw.get_write_buffer_size)
        self._linger_timer = Timeout(self._loop, raw.abort)
        self._info = ConnectionInfo(
            extended_start=True,
            peer_disconnected=self._peer_disconnected,
            write_paused=wrapped.is_write_paused,
            unacknowledged_bytes=wrapped.unacknowledged_bytes,
        )
        self._scope = connection_scope(raw)
        tcp.limit_unsent(transport)
        self._header_timer.start(self.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: no timer outlives the connection, and the application hears that the client has gone."""
        del exc
        self._state = ConnectionState.CLOSING
        self._server_state.connections.discard(self)
        if self._active is not None and not self._active.response_complete:
            self._active.disconnect()
        self._transport.resume_writing()
        self._release()

    def eof_received(self) -> bool | None:
        """Answer the complete requests, then close: a client may end its half of the connection behind its last request.

        A client that ends it inside of a request has gone. Returns whether the connection stays open.
        """
        if self._state in ENDED:
            return False
        receiving = self._receiving
        if receiving is not None and receiving is self._active:
            return False
        if receiving is not None:  # what is queued behind the active one will not be complete
            self._receiving = None
            self._queue.pop()
        self._eof_received = True
        self._header_timer.stop()
        if not self._is_busy():
            self.close()
            return True
        if self._state is ACTIVE:
            self._state = ConnectionState.DISCARDING
        if self._deferred_error is None and (last := self._queue[-1] if self._queue else self._active) is not None:
            last.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Stop sending: more waits for the client than the write buffer should hold."""
        self._transport.pause_writing()
        self._send_timer.start(self.send_timeout)

    def resume_writing(self) -> None:
        """Send again: the client has taken most of what waited."""
        self._transport.resume_writing()
        if not self._transport.is_closing():
            self._send_timer.stop()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and act on it in its order."""
        if self._state is IDLE:
            self._state = ACTIVE
        elif self._state is not ACTIVE:
            return
        self._fast_path_left = FAST_PATH_PER_READ
        if len(data) <= BYTES_PER_TURN or self._parser.reads_raw_body:
            self._parse(data)
        else:
            self._turns.start(data)

    def _parse(self, data: bytes) -> None:
        if self._state not in PARSING:
            return
        parser = self._parser
        for event in parser.feed(data):
            if isinstance(event, RequestHead):
                self._on_head(event)
            elif isinstance(event, GridcastError):
                self._refuse(event)
            else:
                self._on_body(event)
            if (state := self._state) is not ACTIVE and state is not IDLE:
                return
        if parser.in_head or (self._state is ACTIVE and not self._is_busy()):
            # A head, line ends between requests, or the rest of an unwanted body: only for a limited time.
            self._header_timer.start(self.header_timeout)

    # What the server calls.

    def shutdown(self) -> None:
        """Close the connection, behind the response to the last request where one is due."""
        last = self._queue[-1] if self._queue else self._active
        if last is None or last.response_complete:
            self.close()
        else:
            last.keep_alive = False
        if self._transport.is_closing():
            self._send_timer.start(self.shutdown_send_timeout)

    def _peer_disconnected(self) -> bool:
        """Whether the client has gone. A connection that is not read does not notice it; one that is read has ended then."""
        if self._active is not None and self._active.body.is_left_unread():  # a whole request is taken before
            return False
        if self._transport.is_closing() or not (self._eof_received or self._transport.read_paused):
            return self._transport.is_closing()
        is_in_body = self._receiving is not None and self._receiving is self._active
        return tcp.peer_has_gone(self._raw, self._parser.body_left if is_in_body else 0)

    # Requests.

    def _is_busy(self) -> bool:
        """Whether a response is due."""
        return self._active is not None and (not self._active.response_complete or bool(self._queue))

    def _on_head(self, head: RequestHead) -> None:
        """Start a request, or queue it behind the active one."""
        self._header_timer.stop()
        busy = self._is_busy()
        if len(self._queue) >= MAX_PIPELINED:
            self._refuse(TooManyRequests("too many pipelined requests on one connection"))
            return
        extensions = {CONNECTION_INFO_EXTENSION: self._info}
        scope = http_scope(self._scope, self._address.get(head.target), head, self._app_state.copy(), extensions)
        if head.websocket:
            self._on_websocket_handshake(head, busy=busy)
            return
        if (
            self._fast_path is not None
            and not busy
            and head.keep_alive
            and head.content_length == 0
            and self._fast_path_left
            and not head.expect_continue
            and not self._transport.write_paused  # nothing else would bound what waits for this client
            and (response := self._fast_path(scope)) is not None
        ):
            self._send_prepared(response)
            return
        self._start_request(head, scope, keep_alive=head.keep_alive, busy=busy)

    def _start_request(self, head: RequestHead, scope: Scope, *, keep_alive: bool, busy: bool) -> None:
        if self._state is IDLE:  # a response of the fast path came out of the same read
            self._state = ACTIVE
        has_body = head.content_length != 0
        cycle = RequestCycle(
            scope, self._transport, self, keep_alive=keep_alive, expect_continue=head.expect_continue, has_body=has_body
        )
        self._receiving = cycle if has_body else None
        if busy:
            self._transport.pause_reading()
            self._queue.append(cycle)
        else:
            self._run(cycle)

    def _send_prepared(self, response: PreparedResponse) -> None:
        """Send a response of the fast path: no task, no coroutine, no event."""
        self._fast_path_left -= 1
        lines = date_line() + response.field_lines
        head = encode_response_head(response.status, response.headers, response.preencoded, lines)
        self._transport.write_response(head, response.body)
        self._server_state.total_requests += 1
        self._state = IDLE
        self._keep_alive_timer.start()

    def _run(self, cycle: RequestCycle) -> None:
        self._active = cycle
        tasks = self._server_state.tasks
        task = self._loop.create_task(cycle.run(self._app))
        task.add_done_callback(tasks.discard)
        tasks.add(task)

    def _on_body(self, event: bytes | EndOfMessage) -> None:
        """Hand a piece of a body over, or its end; drop it where the response is complete."""
        cycle = self._receiving
        if isinstance(event, EndOfMessage):
            self._receiving = None
        if cycle is None or cycle.response_complete:
            return
        if isinstance(event, bytes):
            cycle.body.feed(event)
        else:
            cycle.body.finish()

    def response_complete(self) -> None:
        """Go on behind a complete response: with the next request, or with an error that waited for its turn."""
        self._server_state.total_requests += 1
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        if self._queue:
            self._run(self._queue.popleft())
        elif self._deferred_error is not None:
            self._send_error(self._deferred_error, new_request_id())
        elif self._state is ACTIVE:
            self._state = IDLE
            self._keep_alive_timer.start()

    # Upgrades.

    def _on_websocket_handshake(self, head: RequestHead, *, busy: bool) -> None:
        """Switch to the WebSocket protocol."""
        if busy:
            self._refuse(BadRequest("a WebSocket handshake must not follow a request that is not answered"))
            return
        self._state = ConnectionState.UPGRADED
        self._server_state.connections.discard(self)
        self._transport.flush()
        protocol = self._config.ws_protocol_class(
            config=self._config, server_state=self._server_state, app_state=self._app_state
        )
        early = self._parser.trailing_data + self._turns.take_rest()
        switch_to_websocket(self._raw, protocol, head, early, write_paused=self._transport.write_paused)
        self._release()

    # Errors.

    def _refuse(self, error: GridcastError) -> None:
        """Answer `error` and close; behind the responses to requests that came before, if any are due."""
        self._state = ConnectionState.DISCARDING
        request_id = None
        self._header_timer.stop()
        active, receiving = self._active, self._receiving
        due = self._is_busy()
        if receiving is not None and active is not None:  # the fault is in this request's body
            if receiving is not active:
                self._queue.pop()
            elif active.response_started:
                self.close()
                return
            else:
                request_id = active.scope.setdefault("request_id", new_request_id())
                active.disconnect()
                due = False
        if due:
            self._deferred_error = error
        else:
            self._send_error(error, request_id or new_request_id())

    def _send_error(self, error: GridcastError, request_id: str) -> None:
        headers = [date_header(), (b"x-request-id", request_id.encode("ascii"))]
        self._transport.write(encode_error_response(error, headers))
        client = self._scope["client"]
        log_refusal("request rejected", error, request_id, client[0] if client else "unknown")
        self._linger()

    def _on_header_timeout(self) -> None:
        if self._is_busy():
            # We do not read while a response is due, so it is not the client who is slow.
            self._header_timer.start(self.header_timeout)
        elif self._parser.in_head:
            self._refuse(RequestTimeout(f"no complete head within {self.header_timeout:g} seconds"))
        else:
            self.close()

    def _on_keep_alive_timeout(self) -> None:
        if self._state is IDLE:
            self.close()

    # Ending.

    def close(self) -> None:
        """Close, in the way the state of the response asks for (see the top of this file)."""
        if self._state in ENDED:
            return  # what is in the write buffer is still sent
        active = self._active
        if active is not None and active.response_started and not active.response_complete:
            self._state = ConnectionState.CLOSING
            self._transport.reset()
        elif self._receiving is not None and self._receiving is active:
            self._linger()
        else:
            self._state = ConnectionState.CLOSING
            self._transport.close()
            self._send_timer.start(self.send_timeout)  # closing waits until everything is taken

    def _linger(self) -> None:
        """Send a FIN, and read on for `linger_timeout` (RFC 9112, 9.6): closing on unread bytes would reset the connection."""
        self._state = ConnectionState.LINGERING
        self._header_timer.stop()
        if self._raw.is_closing():
            return
        if self._eof_received:  # nothing more will come
            self._transport.close()
            return
        self._transport.half_close()
        self._linger_timer.start(self.linger_timeout)

    def _release(self) -> None:
        """Stop all timers, and drop what refers back to this object: a WebSocket lives for days, and garbage waits long."""
        for timer in (self._header_timer, self._keep_alive_timer, self._send_timer, self._linger_timer):
            timer.stop()
        self._parser.close()
        self._turns.take_rest()
        if self._active is not None and (self._active.response_complete or not self._active.body.is_left_unread()):
            self._active = None
        self._receiving = None
        self._queue.clear()
        del self._header_timer, self._keep_alive_timer, self._turns, self._info
