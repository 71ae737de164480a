"""Assembles WebSocket messages out of frames (RFC 6455, 5.4). Without I/O: the caller brings the clock."""

from websockets.frames import Frame, Opcode

from services.common.asgi import Message


class MessageError(Exception):
    """A message for which the connection is failed, with a close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MessageAssembler:
    """Joins the fragments of one message after the other. The parser has checked their order and the size of the whole."""

    __slots__ = ("_fragments", "_since", "_text", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._fragments: list[bytes] = []
        self._since: float | None = None
        self._text = False

    def feed(self, frame: Frame, now: float) -> Message | None:
        """Take a data frame; return the ASGI message that it completes. Raises MessageError.

        The timeout runs from the first continuation to the last.
        """
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            self._fragments = [bytes(frame.data)]
        else:
            if self._since is None:
                self._since = now
            elif now - self._since > self._timeout:
                raise MessageError(1008, "message timeout")
            self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return None
        self._since = None
        fragments, self._fragments = self._fragments, []
        data = fragments[0] if len(fragments) == 1 else b"".join(fragments)
        if not self._text:
            return {"type": "websocket.receive", "bytes": data}
        try:
            return {"type": "websocket.receive", "text": data.decode()}
        except UnicodeDecodeError:
            raise MessageError(1007, "") from None
