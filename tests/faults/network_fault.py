"""A TCP proxy with faults: latency, a black hole, a cut, a reset. It stands before a server; any thread may tell it what to do."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from enum import Enum

PIECE = 64 * 1024
QUEUED = 64


class Fault(Enum):
    """What happens to bytes."""

    NONE = "none"
    LATENCY = "latency"
    BLACK_HOLE = "black hole"
    """Connections are taken and stay, and nothing gets through."""
    REFUSE = "refuse"
    """New connections are reset, like those that are there."""


class Wire:
    """The proxy in a thread of its own. `port` is where it listens."""

    def __init__(self, target: int, seed: int) -> None:
        self.target = target
        self.fault = Fault.NONE
        self.latency = 0.0
        self.port = 0
        self._dice = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(5)
        self._loop.close()

    def cut(self, *, reset: bool) -> None:
        """End every connection now, with a FIN or with an RST."""
        self._loop.call_soon_threadsafe(self._cut, reset)

    def _cut(self, reset: bool) -> None:  # a callback's argument
        for writer in self._open:
            _end(writer, reset=reset)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        self._cut(reset=False)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.REFUSE:
            _end(writer, reset=True)
            return
        try:
            onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _end(writer, reset=True)
            return
        self._open |= {writer, onward[1]}
        try:
            await asyncio.gather(self._pump(reader, onward[1]), self._pump(onward[0], writer))
        except asyncio.CancelledError:
            pass  # the end of the proxy
        finally:
            self._open -= {writer, onward[1]}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on while earlier pieces wait for their moment: latency is not bandwidth."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)
        sending = asyncio.create_task(self._send(pieces, writer))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(PIECE):
                    late = self.latency * self._dice.uniform(0.5, 1.5) if self.fault is Fault.LATENCY else 0.0
                    await pieces.put((self._loop.time() + late, data))
            await pieces.put((0.0, b""))
            await sending
        finally:
            sending.cancel()
            _end(writer, reset=False)

    async def _send(self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await pieces.get()
                if not data:
                    return
                await asyncio.sleep(due - self._loop.time())
                while self.fault is Fault.BLACK_HOLE:  # noqa: ASYNC110  # set by another thread
                    # What was taken in comes out later: a write may reach the server long after its sender gave up.
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        while (await pieces.get())[1]:  # the other side is gone; the reader is not held up by that
            pass


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset and (connection := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


@contextlib.contextmanager
def wired(target: int, seed: int = 0) -> Iterator[Wire]:
    wire = Wire(target, seed)
    try:
        yield wire
    finally:
        wire.close()
