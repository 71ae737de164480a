"""A WebSocket handshake: its rules (RFC 6455, 4.2), and the answer, assembled out of ASGI messages."""

from collections.abc import Iterable
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from services.common.asgi import Message
from services.common.errors import BadRequest, GridcastError, UpgradeRequired, drop_tracebacks
from services.common.http.encoding import Field, encode_error_response
from services.common.http.headers import Header, forwarded_client, incoming_request_id
from services.common.server.date_header import date_header
from services.common.server.websocket.upgrade import UpgradeRequest
from services.common.telemetry.refusals import log_refusal
from services.common.telemetry.request_id import new_request_id

VERSION = "13"
"""The version of the protocol (RFC 6455, 4.1)."""


def accept_handshake(protocol: ServerProtocol, headers: Iterable[Header]) -> Response:
    """Return the 101 that accepts a handshake. Raises UpgradeRequired for another version, and BadRequest.

    `protocol` is a new one. It parses a minimal head: its limits are narrower than those of the server, which has parsed this one.
    """
    fields = Headers([(name.decode("ascii"), value.decode("latin-1")) for name, value in headers])
    protocol.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    protocol.events_received()
    response = protocol.accept(Request("/", fields))
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        return response
    if fields.get_all("Sec-WebSocket-Version") not in ([], [VERSION]):
        raise UpgradeRequired(VERSION)
    raise BadRequest(f"invalid WebSocket handshake: {protocol.handshake_exc}")


def release_parser(protocol: ServerProtocol) -> None:
    """Let go of a parser, which refers to itself, and of the frames that its errors went through: they refer to the connection."""
    protocol.parser.close()
    for error in (protocol.handshake_exc, protocol.parser_exc):
        if error is not None:
            drop_tracebacks(error)


class HandshakeContext:
    """A handshake with its request id: that of the gateway, or a new one."""

    __slots__ = ("_peer", "_request", "request_id")

    def __init__(self, request: UpgradeRequest, peer: tuple[str, int] | None) -> None:
        """`peer`: address of the connection, None where it has gone."""
        self._request = request
        self._peer = peer
        self.request_id = incoming_request_id(request.headers) or new_request_id()

    def encode_refusal(self, error: GridcastError) -> bytes:
        """Return the response that refuses the handshake in place of the application, and log it."""
        client = forwarded_client(self._request.headers, self._peer[0] if self._peer else "unknown")
        path = self._request.target.partition(b"?")[0].decode("ascii")
        log_refusal("websocket handshake rejected", error, self.request_id, client, path)
        return encode_error_response(error, [date_header(), (b"x-request-id", self.request_id.encode("ascii"))])


class Handshake:
    """A handshake that the application has not answered yet. `refusing`: it has begun to answer with a response of its own."""

    __slots__ = ("_body", "_headers", "_request_id", "_response", "_status", "refusing")

    def __init__(self, response: Response, request_id: str) -> None:
        """`response` is the 101 that accepts it. Every response gets the request id."""
        self._response = response
        self._request_id = request_id
        response.headers["X-Request-ID"] = request_id
        self._status = 0
        self._headers: list[Field] = []
        self._body = b""
        self.refusing = False

    def accept(self, subprotocol: str | None, headers: Iterable[Field] = ()) -> Response:
        """Return the response that accepts the handshake."""
        for name, value in headers:
            self._response.headers[name.decode("latin-1")] = value.decode("latin-1")
        if subprotocol:
            self._response.headers["Sec-WebSocket-Protocol"] = subprotocol
        return self._response

    def feed(self, message: Message) -> Response | None:
        """Take an ASGI message; return the response once it is complete. Raises RuntimeError for a message out of its turn.

        `websocket.close` is a 403; `websocket.http.response.start` and `.body` are a response (an ASGI extension).
        """
        match message["type"]:
            case "websocket.accept" if not self.refusing:
                return self.accept(message.get("subprotocol"), message.get("headers", ()))
            case "websocket.close" if not self.refusing:
                self._status = HTTPStatus.FORBIDDEN
                return self._refusal()
            case "websocket.http.response.start" if not self.refusing:
                self.refusing = True
                self._status = message["status"]
                self._headers = list(message.get("headers", ()))
                return None
            case "websocket.http.response.body" if self.refusing:
                self._body += message.get("body", b"")
                return None if message.get("more_body", False) else self._refusal()
            case kind:
                raise RuntimeError(f"unexpected ASGI message {kind}")

    def _refusal(self) -> Response:
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers])
        headers["X-Request-ID"] = self._request_id
        headers.setdefault("Date", date_header()[1].decode("ascii"))
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", str(len(self._body)))
        headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        return Response(self._status, HTTPStatus(self._status).phrase, headers, self._body)
