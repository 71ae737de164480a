"""Receivers of webhooks on loopback that record what comes, and answer as a test tells them to."""

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Received:
    """One request."""

    target: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answering(
    status: int = 200, body: bytes = b"", *, fields: str = "", content_type: str = "application/json"
) -> Respond:
    """A receiver that answers every request alike."""

    async def respond(_received: Received, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        writer.write(head.encode() + body)

    return respond


async def silent(_received: Received, writer: asyncio.StreamWriter) -> None:
    """No answer until the sender gives up."""
    await writer.wait_closed()


async def slow_head(_received: Received, writer: asyncio.StreamWriter) -> None:
    """A head that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"X-Filler: 1\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)


async def endless_body(_received: Received, writer: asyncio.StreamWriter) -> None:
    """A body that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"<p>" * 4096)
            await writer.drain()


async def closing(_received: Received, writer: asyncio.StreamWriter) -> None:
    """A connection that ends without an answer."""
    writer.close()


@dataclass
class Receiver:
    """A receiver that runs. `respond` may be replaced at any time."""

    respond: Respond
    port: int = 0
    connections: int = 0
    requests: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in?a=1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")[:-2]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                received = Received(first.split(" ")[1], headers, body)
                self.requests.append(received)
                await self.respond(received, writer)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def run_receiver(
    respond: Respond | None = None, host: str = "127.0.0.1", certificate: Path | None = None
) -> AsyncIterator[Receiver]:
    """A receiver on a free port; with TLS where it has a certificate."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    receiver = Receiver(respond or answering())
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            handlers.add(task)
        try:
            await receiver.handle(reader, writer)
        except asyncio.CancelledError:
            writer.close()

    server = await asyncio.start_server(handle, host, 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def make_certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate of a name, with its key in the same file `NAME.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{name}.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def run_threaded_receiver(respond: Respond | None = None) -> Iterator[Receiver]:
    """A receiver in a thread of its own, for tests that call a service synchronously."""
    loop = asyncio.new_event_loop()
    running = run_receiver(respond)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(10)
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
