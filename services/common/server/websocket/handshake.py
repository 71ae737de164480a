"""The answer to a WebSocket handshake, assembled out of ASGI messages. Without I/O."""

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.http11 import Response

from services.common.asgi import Message
from services.common.http.encoding import Field


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
        headers.setdefault("Date", formatdate(usegmt=True))
        headers.setdefault("Connection", "close")
        headers.setdefault("Content-Length", str(len(self._body)))
        headers.setdefault("Content-Type", "text/plain; charset=utf-8")
        return Response(self._status, HTTPStatus(self._status).phrase, headers, self._body)
