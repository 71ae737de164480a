"""A TCP proxy before a server that adds latency, holds back bytes, refuses or ends connections: `run_fault_proxy`.

A test sets `fault` and `latency` from any thread.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from enum import Enum

READ_SIZE = 64 * 1024
QUEUE_LENGTH = 64


class Fault(Enum):
    """What the proxy does."""

    NONE = "none"
    LATENCY = "latency"
    BLACK_HOLE = "black hole"
    """Connections are accepted and kept, and no byte passes."""
    REFUSE = "refuse"
    """New connections are reset."""


class FaultProxy:
    """The proxy, in a thread of its own, listening on `port`. `seed` decides how latency varies."""

    def __init__(self, target_port: int, seed: int) -> None:
        self.target_port = target_port
        self.fault = Fault.NONE
        self.latency = 0.0
        self.port = 0
        self.held = threading.Event()
        self._hold_at = b""
        self._random = random.Random(seed)
        self._open_writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stop_requested = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._listening.wait(5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop_requested.set)
        self._thread.join(5)
        self._loop.close()

    def hold_at(self, text: bytes) -> None:
        """Become a black hole in front of the first bytes for the server that have this text; `held` is set then."""
        self.held.clear()
        self._hold_at = text

    def close_connections(self, *, reset: bool) -> None:
        """End every connection now, with a RST or with a FIN."""
        self._loop.call_soon_threadsafe(self._close_connections, reset)

    def _close_connections(self, reset: bool) -> None:  # a callback's argument
        for writer in self._open_writers:
            _close_writer(writer, reset=reset)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop_requested.wait()
        server.close()
        self._close_connections(reset=False)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_connections(reset=False)  # also those whose task was cancelled before its first step
        await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open_writers.add(writer)
        task = self._loop.create_task(self._handle_connection(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault is Fault.REFUSE:
            self._open_writers.discard(writer)
            _close_writer(writer, reset=True)
            return
        try:
            onward = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self._open_writers.discard(writer)
            _close_writer(writer, reset=True)
            return
        self._open_writers.add(onward[1])
        try:
            to_server = self._forward(reader, onward[1], self._check_held)
            await asyncio.gather(to_server, self._forward(onward[0], writer, lambda _: None))
        except asyncio.CancelledError:
            pass  # the end of the proxy
        finally:
            self._open_writers -= {writer, onward[1]}

    def _check_held(self, data: bytes) -> None:
        if self._hold_at and self._hold_at in data:
            self._hold_at = b""
            self.fault = Fault.BLACK_HOLE
            self.held.set()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None]
    ) -> None:
        """Keep reading while earlier pieces are delayed: latency does not reduce bandwidth."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_LENGTH)
        sending = asyncio.create_task(self._send(pieces, writer))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(READ_SIZE):
                    look(data)
                    late = self.latency * self._random.uniform(0.5, 1.5) if self.fault is Fault.LATENCY else 0.0
                    await pieces.put((self._loop.time() + late, data))
            await pieces.put((0.0, b""))
            await sending
        finally:
            sending.cancel()
            _close_writer(writer, reset=False)

    async def _send(self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await pieces.get()
                if not data:
                    return
                await asyncio.sleep(due - self._loop.time())
                while self.fault is Fault.BLACK_HOLE:  # noqa: ASYNC110  # set by another thread
                    # What was read is sent later: a write may reach the server long after its sender has given up.
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        while (await pieces.get())[1]:  # drained after the other side is gone, so that the reader is not blocked
            pass


def _close_writer(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset and (connection := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


@contextlib.contextmanager
def run_fault_proxy(target_port: int, seed: int = 0) -> Iterator[FaultProxy]:
    wire = FaultProxy(target_port, seed)
    try:
        yield wire
    finally:
        wire.close()
