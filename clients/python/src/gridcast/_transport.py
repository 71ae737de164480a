"""HTTP over httpx: the one file that imports it. Nothing of it leaves this file, neither values nor exceptions."""

import ssl
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

import httpx

from gridcast._flows.effects import HttpRequest, HttpResponse, TransportFault
from gridcast._receive_buffer import bound_receive_buffer
from gridcast._server_url import ServerUrl

STREAM_BLOCK_BYTES = 256 * 1024
SEND_BLOCK_BYTES = 128 * 1024
"""Larger bodies are sent in blocks: httpcore copies what is left of a block after each write, and httpx keeps whole bodies."""
_STREAM_STATUSES = frozenset({200, 206})
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpx.ConnectTimeout, "the server could not be reached in time"),
    (httpx.ConnectError, "the server could not be reached"),
    (httpx.PoolTimeout, "no connection became free in time"),
    (httpx.TimeoutException, "the server did not respond in time"),
    (httpx.NetworkError, "the connection was lost"),
    (httpx.RemoteProtocolError, "the connection was closed before the response was complete"),
    (httpx.DecodingError, "the response could not be decoded"),
    (httpx.ProxyError, "the proxy refused the connection"),
)
_NOT_SENT = (httpx.ConnectTimeout, httpx.ConnectError, httpx.PoolTimeout, httpx.ProxyError)
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=20.0)


def _fault(error: Exception) -> TransportFault:
    reason = next((text for kind, text in _REASONS if isinstance(error, kind)), "the request failed")
    return TransportFault(reason, is_sent=not isinstance(error, _NOT_SENT))


def _headers(response: httpx.Response) -> dict[str, str]:
    return {key.lower(): value for key, value in response.headers.items()}


def _check_length(seen: int, limit: int) -> None:
    if seen > limit:
        raise TransportFault("the response is larger than this client accepts")


def _bound_buffer(response: httpx.Response) -> None:
    """Bound what the kernel buffers of a large response."""
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > STREAM_BLOCK_BYTES:
        stream = response.extensions.get("network_stream")
        bound_receive_buffer(stream.get_extra_info("socket") if stream is not None else None)


def _blocks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), SEND_BLOCK_BYTES):
        yield body[start : start + SEND_BLOCK_BYTES]


async def _async_blocks(body: bytes) -> AsyncIterator[bytes]:
    for block in _blocks(body):
        yield block


class _Settings:
    """What both transports share."""

    def __init__(self, url: ServerUrl, timeout: float, user_agent: str) -> None:
        self._origin = url.origin
        # Loading the certificates takes 20 ms, and an http:// server shows none. This context has none, and a proxy has its own.
        self._verify = True if url.is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, 10.0))
        self._user_agent = user_agent

    def _build(self, client: httpx.Client | httpx.AsyncClient, request: HttpRequest, body: object) -> httpx.Request:
        headers = {"user-agent": self._user_agent, "accept": "*/*", "accept-encoding": "identity", **request.headers}
        length = len(request.body) if request.length is None else request.length
        if body is not None:
            headers["content-length"] = str(length)
        timeout = self._timeout if request.timeout is None else httpx.Timeout(request.timeout, connect=10.0)
        content = body if body is not None else (request.body or None)
        return client.build_request(
            request.method,
            self._origin + request.target,
            headers=headers,
            content=content,  # type: ignore[arg-type]  # an iterator of the client's kind
            timeout=timeout,
        )


class HttpTransport(_Settings):
    """Blocking requests over kept connections. Raises TransportFault."""

    def __init__(self, url: ServerUrl, timeout: float, user_agent: str) -> None:
        super().__init__(url, timeout, user_agent)
        self._client = httpx.Client(verify=self._verify, limits=_LIMITS, follow_redirects=False)

    def open(self, request: HttpRequest, body: Iterator[bytes] | None = None) -> "ResponseStream":
        """Send a request and return its response, with the body still to be read."""
        if body is None and len(request.body) > SEND_BLOCK_BYTES:
            body = _blocks(request.body)
        try:
            return ResponseStream(self._client.send(self._build(self._client, request, body), stream=True))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _fault(error) from None

    def send(self, request: HttpRequest, body: Iterator[bytes] | None = None) -> HttpResponse:
        """Send a request and return its response with the body."""
        with self.open(request, body) as stream:
            return stream.read_all(request.body_limit)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()


class ResponseStream:
    """A response whose body is read in blocks."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        _bound_buffer(response)
        self._blocks = response.iter_raw(STREAM_BLOCK_BYTES)
        self.head = HttpResponse(response.status_code, _headers(response))

    @property
    def is_success(self) -> bool:
        """Whether the body is that of a file."""
        return self.head.status in _STREAM_STATUSES

    def read(self) -> bytes:
        """Return the next bytes; b"" at the end."""
        try:
            return next(self._blocks, b"")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _fault(error) from None

    def read_all(self, limit: int) -> HttpResponse:
        """Return the response with its body. Raises TransportFault beyond `limit` bytes."""
        blocks: list[bytes] = []
        while block := self.read():
            blocks.append(block)
            _check_length(sum(map(len, blocks)), limit)
        return HttpResponse(self.head.status, self.head.headers, b"".join(blocks))

    def close(self) -> None:
        """Close the response; the connection is kept if the body was read to its end."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncHttpTransport(_Settings):
    """Requests over kept connections in an event loop. Raises TransportFault."""

    def __init__(self, url: ServerUrl, timeout: float, user_agent: str) -> None:
        super().__init__(url, timeout, user_agent)
        self._client = httpx.AsyncClient(verify=self._verify, limits=_LIMITS, follow_redirects=False)

    async def open(self, request: HttpRequest, body: AsyncIterator[bytes] | None = None) -> "AsyncResponseStream":
        """Send a request and return its response, with the body still to be read."""
        if body is None and len(request.body) > SEND_BLOCK_BYTES:
            body = _async_blocks(request.body)
        try:
            return AsyncResponseStream(await self._client.send(self._build(self._client, request, body), stream=True))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _fault(error) from None

    async def send(self, request: HttpRequest, body: AsyncIterator[bytes] | None = None) -> HttpResponse:
        """Send a request and return its response with the body."""
        stream = await self.open(request, body)
        try:
            return await stream.read_all(request.body_limit)
        finally:
            await stream.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


class AsyncResponseStream:
    """A response whose body is read in blocks, in an event loop."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        _bound_buffer(response)
        self._blocks = response.aiter_raw(STREAM_BLOCK_BYTES)
        self.head = HttpResponse(response.status_code, _headers(response))

    @property
    def is_success(self) -> bool:
        """Whether the body is that of a file."""
        return self.head.status in _STREAM_STATUSES

    async def read(self) -> bytes:
        """Return the next bytes; b"" at the end."""
        try:
            return await anext(self._blocks, b"")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _fault(error) from None

    async def read_all(self, limit: int) -> HttpResponse:
        """Return the response with its body. Raises TransportFault beyond `limit` bytes."""
        blocks: list[bytes] = []
        while block := await self.read():
            blocks.append(block)
            _check_length(sum(map(len, blocks)), limit)
        return HttpResponse(self.head.status, self.head.headers, b"".join(blocks))

    async def close(self) -> None:
        """Close the response; the connection is kept if the body was read to its end."""
        await self._response.aclose()
