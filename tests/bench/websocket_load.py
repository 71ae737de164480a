"""Many WebSocket clients in one process, cheaper than any server: picows, counting frames.

They speak plain JSON frames, or engine.io's as far as a silent socket.io client must. They know no server.
"""

import asyncio

import picows

TOGETHER = 32
"""Handshakes under way at once."""
ATTEMPTS = 5
"""Of one client: a server that others starve may refuse a handshake with 503."""
PATIENCE = 60.0


class Visitor(picows.WSListener):  # type: ignore[misc]
    """One client. A crowd that speaks engine.io is greeted twice and asked for a pong by text."""

    def __init__(self, crowd: "Crowd") -> None:
        super().__init__()
        self._crowd = crowd
        self._engine = crowd.engine
        self._greeted = False

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """A ping is answered by picows."""
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        if self._engine:
            text = frame.get_payload_as_bytes()
            if text.startswith(b"42"):
                self._crowd.hear()
            elif text.startswith(b"40"):
                self._crowd.greet(transport)
            elif text.startswith(b"0"):
                transport.send(picows.WSMsgType.TEXT, b"40")
            elif text == b"2":
                transport.send(picows.WSMsgType.TEXT, b"3")
        elif self._greeted:
            self._crowd.hear()
        else:
            self._greeted = True
            self._crowd.greet(transport)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Nobody may leave before the end."""
        self._crowd.lose()


class Crowd:
    """Clients of one address, an http:// or ws:// one. `engine`: they are socket.io's clients."""

    def __init__(self, url: str, *, engine: bool = False) -> None:
        self.url = url.replace("http", "ws", 1)
        self.engine = engine
        self.heard = 0
        self.lost = 0
        self.refused = 0
        self._members: list[picows.WSTransport] = []
        self._wanted = 0
        self._enough = asyncio.Event()
        self._came = asyncio.Event()

    def __len__(self) -> int:
        return len(self._members)

    def greet(self, transport: picows.WSTransport) -> None:
        """One is in."""
        self._members.append(transport)
        self._came.set()

    def hear(self) -> None:
        """One message has reached one client."""
        self.heard += 1
        if self.heard >= self._wanted:
            self._enough.set()

    def lose(self) -> None:
        """One is out."""
        self.lost += 1
        self._enough.set()
        self._came.set()

    async def grow(self, count: int) -> None:
        """So many more, each with its first frame."""
        turns = asyncio.Semaphore(TOGETHER)

        async def enter() -> None:
            async with turns:
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        await picows.ws_connect(
                            lambda: Visitor(self),
                            self.url,
                            websocket_handshake_timeout=PATIENCE,
                            read_buffer_init_size=2048,
                        )
                    except picows.WSInvalidStatusError:
                        self.refused += 1
                        if attempt == ATTEMPTS:
                            raise
                        await asyncio.sleep(0.2 * attempt)
                    else:
                        return

        wanted = len(self) + count
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(enter() for _ in range(count)))
            while len(self) < wanted:
                self._check()
                self._came.clear()
                await self._came.wait()

    async def all_hear(self, messages: int = 1) -> None:
        """Return once every member has heard so many messages more than at the end of the call before."""
        self._wanted += messages * len(self)
        async with asyncio.timeout(PATIENCE):
            while self.heard < self._wanted:
                self._check()
                self._enough.clear()
                await self._enough.wait()

    def say(self, text: bytes) -> None:
        """Every member says this once."""
        for member in self._members:
            member.send(picows.WSMsgType.TEXT, text)

    async def go(self) -> None:
        """All leave."""
        members, self._members = self._members, []
        for member in members:
            member.disconnect(graceful=False)
        await asyncio.gather(*(member.wait_disconnected() for member in members), return_exceptions=True)
        self.lost = self.heard = self._wanted = 0

    def _check(self) -> None:
        if self.lost:
            raise RuntimeError(f"{self.lost} of {len(self)} connections to {self.url} were lost")
