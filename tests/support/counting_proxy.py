"""A TCP proxy that counts the bytes of each direction: `run_counting_proxy`. Each connection has two threads."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from deploy.local.ports import HOST

READ_SIZE = 64 * 1024
SEND_BUFFER_BYTES = 128 * 1024


class CountingProxy:
    """The proxy before `target_port`. `sent` are the bytes from clients, `received` those to them."""

    def __init__(self, target_port: int) -> None:
        self.sent = 0
        self.received = 0
        self._target_port = target_port
        self._listener = socket.create_server((HOST, 0))
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self._target_port), 5)
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            halves = [
                threading.Thread(target=self._copy, args=(client, server, "sent"), daemon=True),
                threading.Thread(target=self._copy, args=(server, client, "received"), daemon=True),
            ]
            for half in halves:
                half.start()
            threading.Thread(target=self._finish, args=(halves, client, server), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        """Copy until the end, then end both directions: an HTTP exchange that lost one side is over."""
        with contextlib.suppress(OSError):
            while data := source.recv(READ_SIZE):
                with self._lock:
                    setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _finish(self, halves: list[threading.Thread], *sockets: socket.socket) -> None:
        for half in halves:
            half.join()
        with self._lock:
            self._sockets -= set(sockets)
        for one in sockets:
            one.close()


@contextlib.contextmanager
def run_counting_proxy(target_port: int) -> Iterator[CountingProxy]:
    """A proxy for the block."""
    proxy = CountingProxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
