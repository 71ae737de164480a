"""A client connection without a socket, for tests of the hub and of sessions."""


class RecordingSink:
    """A Sink of services.socket.hub that keeps the frames it is given and the code and reason it is closed with."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.send_now = self.frames.append

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        del conflation_key
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
