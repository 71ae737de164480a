"""Many WebSocket clients in one process that count messages, cheap enough to load any server (picows).

They speak plain JSON frames, or as much of engine.io as a socket.io client that sends nothing needs.
"""

import asyncio
from collections.abc import Callable, Mapping

import picows

CONCURRENT_HANDSHAKES = 32
"""Concurrent handshakes."""
HANDSHAKE_ATTEMPTS = 5
"""Attempts of one client: a loaded server may reject a handshake with 503."""
TIMEOUT = 60.0


class SwarmClient(picows.WSListener):
    """One client. An engine.io server sends two greetings, and its pings are text messages."""

    def __init__(self, swarm: "WebSocketSwarm") -> None:
        super().__init__()
        self._swarm = swarm
        self._engine_io = swarm.engine_io
        self._connected = False

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Count messages; picows answers pings."""
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        if self._engine_io:
            text = frame.get_payload_as_bytes()
            if text.startswith(b"42"):
                self._swarm.on_message()
            elif text.startswith(b"40"):
                self._swarm.on_connected(transport)
            elif text.startswith(b"0"):
                transport.send(picows.WSMsgType.TEXT, b"40")
            elif text == b"2":
                transport.send(picows.WSMsgType.TEXT, b"3")
        elif self._connected:
            self._swarm.on_message()
        else:
            self._connected = True
            self._swarm.on_connected(transport)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Report the lost connection: none may end before `disconnect_all`."""
        self._swarm.on_disconnected()


class WebSocketSwarm:
    """Clients of one http:// or ws:// address; with `engine_io`, socket.io clients.

    `make_headers` is called for each handshake and returns its additional header fields, for example a token of its own.
    """

    def __init__(
        self, url: str, *, engine_io: bool = False, make_headers: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self.url = url.replace("http", "ws", 1)
        self.engine_io = engine_io
        self._make_headers = make_headers
        self.received = 0
        self.disconnected = 0
        self.rejected_handshakes = 0
        self._transports: list[picows.WSTransport] = []
        self._expected = 0
        self._all_received = asyncio.Event()
        self._client_connected = asyncio.Event()

    def __len__(self) -> int:
        return len(self._transports)

    def on_connected(self, transport: picows.WSTransport) -> None:
        """A client is connected and has its first frame."""
        self._transports.append(transport)
        self._client_connected.set()

    def on_message(self) -> None:
        """A message has reached a client."""
        self.received += 1
        if self.received >= self._expected:
            self._all_received.set()

    def on_disconnected(self) -> None:
        """A connection has ended."""
        self.disconnected += 1
        self._all_received.set()
        self._client_connected.set()

    async def connect_clients(self, count: int) -> None:
        """Connect `count` more clients and wait for the first frame of each."""
        turns = asyncio.Semaphore(CONCURRENT_HANDSHAKES)

        async def enter() -> None:
            async with turns:
                for attempt in range(1, HANDSHAKE_ATTEMPTS + 1):
                    try:
                        await picows.ws_connect(
                            lambda: SwarmClient(self),
                            self.url,
                            websocket_handshake_timeout=TIMEOUT,
                            read_buffer_init_size=2048,
                            extra_headers=self._make_headers(),
                        )
                    except picows.WSInvalidStatusError:
                        self.rejected_handshakes += 1
                        if attempt == HANDSHAKE_ATTEMPTS:
                            raise
                        await asyncio.sleep(0.2 * attempt)
                    else:
                        return

        wanted = len(self) + count
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(enter() for _ in range(count)))
            while len(self) < wanted:
                self._raise_if_disconnected()
                self._client_connected.clear()
                await self._client_connected.wait()

    async def wait_until_all_received(self, messages: int = 1) -> None:
        """Return once every client has received `messages` more messages than at the end of the previous call."""
        self._expected += messages * len(self)
        async with asyncio.timeout(TIMEOUT):
            while self.received < self._expected:
                self._raise_if_disconnected()
                self._all_received.clear()
                await self._all_received.wait()

    def send_from_all(self, text: bytes) -> None:
        """Send a text message from every client."""
        for member in self._transports:
            member.send(picows.WSMsgType.TEXT, text)

    async def disconnect_all(self) -> None:
        """Close all connections and reset the counts."""
        members, self._transports = self._transports, []
        for member in members:
            member.disconnect(graceful=False)
        await asyncio.gather(*(member.wait_disconnected() for member in members), return_exceptions=True)
        self.disconnected = self.received = self._expected = 0

    def _raise_if_disconnected(self) -> None:
        if self.disconnected:
            raise RuntimeError(f"{self.disconnected} of {len(self)} connections to {self.url} were lost")
