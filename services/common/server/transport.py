"""The transport of an HTTP connection: coalesces small writes, and knows the flow control of both directions."""

import asyncio

from services.common.server import tcp

SMALL_WRITE = 16 * 1024
"""Bytes that are joined with what they are sent with: cheaper than to send them apart."""


class CoalescingTransport:
    """Wraps an asyncio transport. A short write is delayed until the next one, at most until the end of this iteration of the
    event loop.

    A write is a system call, and a small response would take two. `write_paused`: the client has not taken enough of what was
    written. `read_paused`: nothing is read at the moment.
    """

    __slots__ = (
        "_half_closed",
        "_held",
        "_loop",
        "_pending",
        "_raw",
        "_writable",
        "read_paused",
        "write_paused",
    )

    def __init__(self, raw: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._raw = raw
        self._loop = loop
        self._pending: bytes | memoryview = b""
        self._half_closed = self._held = self.read_paused = self.write_paused = False
        self._writable: asyncio.Event | None = None

    # Writing.

    def write(self, data: bytes | memoryview) -> None:
        """Send, or hold for a moment."""
        pending = self._pending
        if not pending and len(data) <= SMALL_WRITE:
            self._pending = data
            self._loop.call_soon(self.flush)
        elif not pending:
            self._raw.write(data)
        else:
            self._pending = b""
            if len(data) <= SMALL_WRITE:
                self._raw.write(b"".join((pending, data)))
            else:
                self._raw.writelines((pending, data))

    def write_response(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a whole response, behind what is held."""
        if self._pending:
            self.flush()
        if len(body) <= SMALL_WRITE:
            self._raw.write(b"".join((head, body)))
        else:
            self._raw.writelines((head, body))

    def flush(self) -> None:
        """Send what is held."""
        pending, self._pending = self._pending, b""
        if pending and not self._raw.is_closing():
            self._raw.write(pending)

    def unsent_bytes(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return self._raw.get_write_buffer_size()

    # Flow control.

    def pause_reading(self) -> None:
        """Stop reading; nothing where it is stopped."""
        if not self.read_paused:
            self.read_paused = True
            if not self._held:
                self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read again; nothing where it is being read, or as long as it is held."""
        if self.read_paused:
            self.read_paused = False
            if not self._held:
                self._raw.resume_reading()

    def hold_reading(self) -> None:
        """Stop reading until `release_reading`, whatever `resume_reading` says: what was read is not parsed yet."""
        self._held = True
        if not self.read_paused:
            self._raw.pause_reading()

    def release_reading(self) -> None:
        """Read again, unless `pause_reading` was called."""
        self._held = False
        if not self.read_paused and not self._raw.is_closing():
            self._raw.resume_reading()

    def pause_writing(self) -> None:
        """Note that the write buffer is above its high-water mark."""
        self.write_paused = True
        if self._writable is not None:
            self._writable.clear()

    def resume_writing(self) -> None:
        """Note that the write buffer is below its low-water mark, or that the connection is lost: `drain` returns."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Wait while writing is paused."""
        if self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    # Closing.

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._half_closed or self._raw.is_closing()

    def close(self) -> None:
        """Close when all that was written is sent."""
        self.flush()
        self._raw.close()

    def half_close(self) -> None:
        """Send a FIN behind what was written, and go on reading."""
        self._half_closed = True
        if not self._raw.is_closing():
            if self._held:
                self.release_reading()
            self.resume_reading()
            self.flush()
            self._raw.write_eof()

    def reset(self) -> None:
        """Abort the connection with a RST."""
        self.flush()
        tcp.reset(self._raw)

    def abort(self) -> None:
        """Close without sending what waits."""
        self._raw.abort()

    # What an application may ask (`services.common.server.connection_info`).

    def is_write_paused(self) -> bool:
        """Whether the write buffer is above its high-water mark."""
        return self.write_paused

    def unacknowledged_bytes(self) -> int | None:
        """Return the bytes that the client has not acknowledged; None where that is unknown."""
        return tcp.unacknowledged_bytes(self._raw)
