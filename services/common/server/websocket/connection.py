"""A WebSocket connection over websockets' sans-I/O parser.

Nothing of uvicorn's WebSocket implementations is used. Of the server it needs what `HTTPConnection` needs, see `contract`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.server import ServerProtocol

from services.common.asgi import Message, Scope
from services.common.errors import GridcastError, InternalServerError
from services.common.server import tcp
from services.common.server.contract import ServerConfig, ServerState
from services.common.server.scope import websocket_scope
from services.common.server.timeouts import Timeout
from services.common.server.websocket.cycle import LOGGER, WebSocketCycle, WebSocketState
from services.common.server.websocket.handshake import Handshake, HandshakeContext, accept_handshake, release_parser
from services.common.server.websocket.messages import MessageAssembler, MessageError
from services.common.server.websocket.ping import KeepAlivePing
from services.common.server.websocket.upgrade import UpgradeRequest, parse_upgrade_request
from services.common.telemetry.request_id import request_id_var

SLICE = 4096
"""Bytes parsed before the frame count is looked at again."""


class WebSocketConnection(asyncio.Protocol):
    """One WebSocket: an ASGI scope and its messages on one side, frames on the other. Extensions are not offered.

    It limits what a client may do: no data before its handshake is answered, messages of `max_message_bytes`, fragmented ones
    within `message_timeout`, as many frames as `allow_frames` says, a pong for each ping, and a bounded closing handshake.
    After a data frame the connection is not read until the application has received its messages.

    A subclass hooks in with `allow_frames`, `on_open` and `stop_sending`. `sent_close_code` is the code with which we closed, or 0.
    `on_ping` is called before a ping, unless writing is paused: what was written before it has been read when `on_pong` is called.
    """

    __slots__ = (
        "_app",
        "_app_state",
        "_assembler",
        "_close_timer",
        "_connections",
        "_context",
        "_cycle",
        "_failed",
        "_ping",
        "_read_paused",
        "_tasks",
        "_writable",
        "loop",
        "on_ping",
        "on_pong",
        "protocol",
        "sent_close_code",
        "state",
        "transport",
        "write_paused",
    )

    max_message_bytes: ClassVar[int] = 64 * 1024
    """Bytes of one incoming message; more is closed with 1009."""
    ping_interval: ClassVar[float] = 20.0
    """Seconds between a pong and the next ping."""
    close_timeout: ClassVar[float] = 4.0
    """Seconds for the client to answer our close frame; then it is cut off."""
    message_timeout: ClassVar[float] = 30.0
    """Seconds from the first fragment of a message to its last."""

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self._app = config.loaded_app
        self._app_state = app_state
        self._connections = server_state.connections
        self._tasks = server_state.tasks
        self._context: HandshakeContext
        self.protocol = ServerProtocol(max_size=self.max_message_bytes, logger=LOGGER)
        self.protocol.debug = False
        self.state = WebSocketState.NEW
        self.sent_close_code = 0
        self.transport: asyncio.Transport
        self._cycle: WebSocketCycle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.write_paused = self._read_paused = self._failed = False
        self.on_ping: Callable[[], None] | None = None
        self.on_pong: Callable[[], None] | None = None
        self._assembler = MessageAssembler(self.message_timeout)
        self._ping = KeepAlivePing(self.loop, self.ping_interval, self._send_ping, self.keepalive_timeout)
        self._close_timer: Timeout

    # Hooks.

    def allow_frames(self, count: int) -> bool:
        """Whether the client may send `count` frames more; False closes with 1008."""
        del count
        return True

    def on_open(self) -> None:
        """The handshake is accepted: frames may be written."""

    def stop_sending(self) -> None:
        """No frame goes out from now on."""

    # What the event loop and the server call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on a connection that HTTP hands over."""
        self.transport = cast("asyncio.Transport", transport)
        self._close_timer = Timeout(self.loop, self.transport.abort)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: no timer outlives the connection, and nothing refers back to it any more."""
        del exc
        self.stop_sending()
        self._ping.release()
        self.on_ping = self.on_pong = None
        self._close_timer.stop()
        self._put_disconnect(1006 if self.state in {WebSocketState.NEW, WebSocketState.CONNECTING} else 1005)
        self.state = WebSocketState.CLOSED
        self._connections.discard(self)
        self._writable.set()  # the transport is not going to say it
        self._cycle = None
        release_parser(self.protocol)

    def eof_received(self) -> None:
        """The client has ended its side, and so do we: the application hears of it now, what waits for the client has a moment."""
        self._put_disconnect(1006)
        self._stop_output()
        if self.state is WebSocketState.OPEN:
            self.state = WebSocketState.CLOSING
        self._start_close_timer()

    def pause_writing(self) -> None:
        """The transport holds more than its high-water mark, 64 KiB."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self.write_paused = False
        self._writable.set()

    def shutdown(self) -> None:
        """Close at the end of the process: with 1012, and `close_timeout` to take it."""
        self._stop_output()
        if self.state is WebSocketState.OPEN:
            self._send_close(1012)
        elif self.state is WebSocketState.CONNECTING:
            self.refuse_with_internal_error()
        self.transport.close()
        self._start_close_timer()

    def data_received(self, data: bytes) -> None:
        """Take the handshake first, in one piece. Parse frames in slices: a flood of tiny ones is stopped after one slice."""
        if self.state is WebSocketState.NEW:
            self._on_handshake(parse_upgrade_request(data))
            return
        for start in range(0, len(data), SLICE):
            if self._failed:
                return
            if self.state is WebSocketState.CONNECTING:
                self._abort_early_data()
                return
            self.protocol.receive_data(data[start : start + SLICE])
            if self.protocol.parser_exc is None:
                self._on_events(cast("list[Frame]", self.protocol.events_received()))
            elif (close := self.protocol.close_sent) is not None:
                self.fail(close.code, close.reason)  # the parser has written the close frame
            else:
                self.transport.abort()
        if self.transport.is_closing():
            self._start_close_timer()

    # What the client sends.

    def _on_events(self, events: list[Frame]) -> None:
        if events and not self.allow_frames(len(events)):
            self.fail(1008, "too many frames")
            return
        for event in events:
            if self._failed:
                return
            match event.opcode:
                case Opcode.PING:
                    self._flush()  # the parser has written the pong
                case Opcode.PONG:
                    self._on_pong(bytes(event.data))
                case Opcode.CLOSE:
                    self._on_close()
                case _:
                    self._on_data(event)

    def _on_handshake(self, request: UpgradeRequest) -> None:
        """Start the application for a valid handshake; answer another one with a problem."""
        self._context = HandshakeContext(request, tcp.peer_address(self.transport))
        try:
            response = accept_handshake(self.protocol, request.headers)
        except GridcastError as error:
            self._refuse_with_problem(error)
            return
        self.state = WebSocketState.CONNECTING
        self._cycle = cycle = WebSocketCycle(self, Handshake(response, self._context.request_id))
        token = request_id_var.set(self._context.request_id)
        task = self.loop.create_task(cycle.run(self._app, self.build_scope(request)))
        request_id_var.reset(token)
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)

    def build_scope(self, request: UpgradeRequest) -> Scope:
        """Return the ASGI scope of a handshake."""
        return websocket_scope(request, self.transport, self._app_state.copy())

    def _on_data(self, frame: Frame) -> None:
        """Hand a complete message to the application, and do not read until it has received it."""
        try:
            message = self._assembler.feed(frame, self.loop.time())
        except MessageError as error:
            self.fail(error.code, error.reason)
            return
        if message is None or self.state is not WebSocketState.OPEN or self._cycle is None:
            return  # a message behind our close frame is dropped, so that reading goes on until the client's
        self._cycle.put(message)
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def _on_pong(self, payload: bytes) -> None:
        if self._ping.pong_received(payload) and self.on_pong is not None:
            self.on_pong()

    def _on_close(self) -> None:
        """The client closes, or answers our close frame."""
        self.stop_sending()
        received = self.protocol.close_rcvd
        if self.state is WebSocketState.CLOSING:
            if self._close_timer.running:
                self._close_timer.stop()
                self.transport.close()
        elif received is not None and not self.transport.is_closing():
            self.state = WebSocketState.CLOSING
            self._put_disconnect(received.code, received.reason)
            self._flush()
            self.transport.close()

    # Keep-alive pings.

    def ping_now(self) -> None:
        """Send the next ping ahead of its time."""
        self._ping.ping_now()

    def _send_ping(self, payload: bytes) -> None:
        if self.state is not WebSocketState.OPEN or self.transport.is_closing():
            self._ping.stop()
            return
        if self.on_ping is not None and not self.write_paused:
            self.on_ping()
        self.protocol.send_ping(payload)
        self._flush()

    def keepalive_timeout(self) -> None:
        """Close with 1011: no pong came. A client that does not take even that is cut off."""
        self.sent_close_code = 1011
        self._put_disconnect(1011, "ping timeout")
        self._stop_output()
        if self.state is WebSocketState.OPEN and not self.transport.is_closing():
            self.protocol.fail(1011, "keepalive ping timeout")
            self.state = WebSocketState.CLOSING
            self._flush()
            self.transport.close()
        self._start_close_timer()

    # Closing (RFC 6455, 7).

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; cut the connection after `close_timeout` if the client does not answer it."""
        if self.state is not WebSocketState.OPEN or self.transport.is_closing():
            return
        self._stop_output()
        self.sent_close_code = code
        self._send_close(code, reason)
        self.resume_reading()
        self._start_close_timer()

    def fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455, 7.1.7). What still comes is read and dropped unparsed: closing on unread bytes would reset
        the connection and take the close frame with it.
        """
        if self._failed:
            return
        self._failed = True
        self.sent_close_code = self.sent_close_code or code
        if self.state is not WebSocketState.CLOSING:
            self._put_disconnect(code, reason)
            self.protocol.fail(code, reason)
            self.state = WebSocketState.CLOSING
            self._flush()
        self._stop_output()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._read_paused = False
        self._start_close_timer()

    def _abort_early_data(self) -> None:
        """A client must wait for the answer to its handshake (RFC 6455, 4.1): nothing that it sends before is kept or parsed."""
        self._failed = True
        self.transport.abort()

    def _stop_output(self) -> None:
        self.stop_sending()
        self._ping.stop()

    def _start_close_timer(self) -> None:
        """Abort after `close_timeout`: closing waits for the write buffer to empty, which a client may put off for ever."""
        self._close_timer.start(self.close_timeout)

    def _put_disconnect(self, code: int, reason: str = "") -> None:
        if self._cycle is not None:
            self._cycle.put_disconnect(code, reason)

    def _send_close(self, code: int, reason: str = "") -> None:
        self._put_disconnect(code, reason)
        self.protocol.send_close(code, reason)
        self.state = WebSocketState.CLOSING
        self._flush()

    def _flush(self) -> None:
        self.transport.write(b"".join(self.protocol.data_to_send()))

    # What the cycle asks for.

    async def drain(self) -> None:
        """Return once the client has taken what waits, or is gone."""
        await self._writable.wait()

    def resume_reading(self) -> None:
        """Read on, where reading is paused."""
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def open(self, response: Response, first_frame: bytes = b"") -> None:
        """Accept the handshake, and send the first frame in the same write. Nothing where the client has gone meanwhile."""
        if self.transport.is_closing():
            return
        self.protocol.send_response(response)
        self.state = WebSocketState.OPEN
        self.on_open()
        self.transport.write(b"".join([*self.protocol.data_to_send(), first_frame]))
        self._ping.start()

    def accept(self, subprotocol: str | None, first_frame: bytes) -> None:
        """Accept the handshake in place of an ASGI message, with a first frame."""
        if self._cycle is not None and self.state is WebSocketState.CONNECTING:
            self.open(self._cycle.handshake.accept(subprotocol), first_frame)

    def refuse(self, response: Response) -> None:
        """Answer the handshake with another response than 101, and close."""
        self.protocol.send_response(response)
        self.state = WebSocketState.CLOSING
        self._flush()
        self.transport.close()

    def refuse_with_internal_error(self) -> None:
        """Answer the handshake with 500, unless a response has begun."""
        cycle = self._cycle
        if cycle is not None and self.state is WebSocketState.CONNECTING and not cycle.handshake.refusing:
            self._refuse_with_problem(InternalServerError())

    def _refuse_with_problem(self, error: GridcastError) -> None:
        """Answer the handshake with a problem, and close."""
        self.transport.write(self._context.encode_refusal(error))
        self.state, self._failed = WebSocketState.CLOSING, True
        self.transport.close()
        self._start_close_timer()

    def send_message(self, message: Message) -> None:
        """Send the data of an ASGI message as one frame."""
        if (data := message.get("bytes")) is not None:
            self.protocol.send_binary(data)
        else:
            self.protocol.send_text(message["text"].encode())
        self._flush()

    def application_returned(self) -> None:
        """Close, unless the closing handshake is under way."""
        if not self._close_timer.running:
            self.transport.close()
