"""Sends signed POST requests: the file that names httpx for webhooks.

No redirect is followed, no proxy of the environment is used, no cookie is kept. A connection is made to an address that was judged
after the name was resolved, and to no other.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import httpx

from services.common.http.dates import parse_http_date
from services.common.webhooks.addresses import choose_address

MAX_ANSWER_BYTES = 20_000
"""What is read of the answer to a delivery; its status counts, however long it is."""
RESOLUTION_SECONDS = 10.0
"""How long the addresses of a name are used. A connection stays with the one that it was made to."""
KEEP_ALIVE_SECONDS = 5.0
"""Idle connections are kept for less than servers keep them."""
RESOLVER_THREADS = 8

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Raises OSError."""


class SendError(Exception):
    """No valid answer. The text says why, without the address."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """An answer. `body` is cut at the limit of the call, `is_complete` where it ended before. `retry_after` in seconds."""

    status: int
    body: bytes
    is_complete: bool
    media_type: str
    retry_after: float | None


class Resolver:
    """Resolves names in threads of its own, so that a name server that does not answer stops nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses as text, in the order of the resolver."""

        def resolve() -> list[str]:
            return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, resolve)
        except UnicodeError as error:  # a label that is too long
            raise OSError(str(error)) from error

    def close(self) -> None:
        """End the threads as soon as they are idle."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class HTTPSender:
    """Sends to one URL, over at most `max_connections` connections. `is_private_allowed`: the operator has set the URL."""

    def __init__(self, url: str, *, is_private_allowed: bool, max_connections: int, resolve: Resolve) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._host_field = parts.netloc
        self._scheme = parts.scheme
        self._target = ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode()
        self._is_private_allowed = is_private_allowed
        self._resolve = resolve
        self._resolving = asyncio.Lock()
        self._address = ""
        self._resolved_at = -RESOLUTION_SECONDS
        _remember_missing_module()
        self._transport = httpx.AsyncHTTPTransport(
            verify=_tls_context() if parts.scheme == "https" else True,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
        )

    async def post(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_seconds: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> HTTPAnswer:
        """Send one request and return the answer. Raises SendError, after `timeout_seconds` at the latest."""
        try:
            async with asyncio.timeout(timeout_seconds):
                address = await self._pin_address()
                try:
                    return await self._post(address, headers, body, timeout_seconds, max_answer_bytes)
                except _IdleConnectionLost:
                    return await self._post(address, headers, body, timeout_seconds, max_answer_bytes)
        except TimeoutError:
            raise SendError("no complete answer in time", timed_out=True) from None

    async def _pin_address(self) -> str:
        """Return an address to connect to. One request at a time resolves."""
        async with self._resolving:
            if time.monotonic() - self._resolved_at >= RESOLUTION_SECONDS:
                try:
                    found = await self._resolve(self._host, self._port)
                except OSError:
                    raise SendError("the host could not be resolved") from None
                try:
                    self._address = choose_address(found, allow_private=self._is_private_allowed)
                except ValueError as error:
                    raise SendError(str(error)) from None
                self._resolved_at = time.monotonic()
            return self._address

    async def _post(
        self, address: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float, max_answer_bytes: int
    ) -> HTTPAnswer:
        is_new_connection = False

        async def trace(event: str, _info: Any) -> None:
            nonlocal is_new_connection
            is_new_connection = is_new_connection or event.startswith("connection.connect_tcp")

        fields = {
            "host": self._host_field,
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": "gridcast-webhooks",
            **headers,
        }
        # httpcore closes a socket whose TLS handshake exceeds its own time limit, and leaves one that is cancelled.
        timeouts = {**dict.fromkeys(("read", "write", "pool"), timeout_seconds), "connect": 0.8 * timeout_seconds}
        extensions = {"sni_hostname": self._host, "timeout": timeouts, "trace": trace}
        try:
            # The URL has the address: a host such as 0177.1 is one for the resolver, and httpx refuses it.
            url = httpx.URL(scheme=self._scheme, host=address, port=self._port, raw_path=self._target)
            request = httpx.Request("POST", url, headers=fields, content=body, extensions=extensions)
            response = await self._transport.handle_async_request(request)
        except httpx.TimeoutException:
            raise SendError("no answer in time", timed_out=True) from None
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            if not is_new_connection:  # the receiver has closed an idle connection: RFC 9112, 9.3.1
                raise _IdleConnectionLost from None
            raise SendError(f"no valid answer ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SendError(f"no connection ({type(error).__name__})") from None
        try:
            received, is_complete = await _read(response, max_answer_bytes)
        except httpx.TimeoutException:
            raise SendError("no complete answer in time", timed_out=True) from None
        except httpx.HTTPError as error:
            raise SendError(f"no complete answer ({type(error).__name__})") from None
        finally:
            await response.aclose()
        return HTTPAnswer(
            status=response.status_code,
            body=received,
            is_complete=is_complete,
            media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
            retry_after=_parse_retry_after(response.headers.get("retry-after", "")),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class _IdleConnectionLost(Exception):
    """A connection that was used before has ended without an answer."""


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    received = bytearray()
    async for piece in response.aiter_raw():
        received += piece
        if len(received) > limit:
            return bytes(received[:limit]), False
    return bytes(received), True


def _parse_retry_after(text: str) -> float | None:
    """The seconds of Retry-After (RFC 9110, 10.2.3), None where it is missing or malformed."""
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    now = datetime.now(UTC)
    moment = parse_http_date(text, now)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _remember_missing_module() -> None:
    """Let an import of sniffio fail at once where it is not installed.

    httpcore tries it several times for each request, and each time Python looks through all folders again: a third of the CPU of a
    request.
    """
    if "sniffio" not in sys.modules and find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # what the import system takes for "not there"


_shared_tls_context: Any = None


def _tls_context() -> Any:
    """One context of the process: to make one takes 20 ms. It trusts httpx's roots and those of the system."""
    global _shared_tls_context  # noqa: PLW0603
    if _shared_tls_context is None:
        _shared_tls_context = httpx.create_ssl_context(trust_env=False)
        _shared_tls_context.load_default_certs()
    return _shared_tls_context
