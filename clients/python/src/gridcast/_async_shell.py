"""The asynchronous shell: performs the effects of a flow in an event loop, and local files in its threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from gridcast._flows.effects import (
    SOURCE_BLOCK_BYTES,
    ByteSource,
    CloseStream,
    Effect,
    Flow,
    GetToken,
    HttpRequest,
    Local,
    OpenStream,
    ReadSource,
    ReadStream,
    Send,
    Sleep,
    TransportFault,
)
from gridcast._local.sources import AsyncIteratorSource
from gridcast._tokens import TokenCache
from gridcast._transport import AsyncHttpTransport, AsyncResponseStream

T = TypeVar("T")
Page = tuple[Sequence[T], str | None]


class AsyncShell:
    """Runs flows over one transport. Each run has a stream of its own, so tasks may share a shell."""

    def __init__(self, transport: AsyncHttpTransport, tokens: TokenCache) -> None:
        self._transport = transport
        self._tokens = tokens

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        performer = _AsyncPerformer(self._transport, self._tokens)
        try:
            effect = next(flow)
            while True:
                try:
                    result = await performer.perform(effect)
                except BaseException as error:  # noqa: BLE001  # the flow decides, cancellation included
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()
            await asyncio.shield(performer.close_stream())

    async def pages(self, flow_of: Callable[[str | None], Flow[Page[T]]]) -> AsyncIterator[T]:
        """Iterate over the entries of all pages. `flow_of` makes the flow of one, of its `after`: entries, and the next `after`."""
        after: str | None = None
        while True:
            page, after = await self.run(flow_of(after))
            for one in page:
                yield one
            if after is None:
                return


class _AsyncPerformer:
    def __init__(self, transport: AsyncHttpTransport, tokens: TokenCache) -> None:
        self._transport = transport
        self._tokens = tokens
        self._stream: AsyncResponseStream | None = None

    async def perform(self, effect: Effect) -> Any:
        match effect:
            case ReadStream():
                return await self._read_stream()
            case Local():
                return await asyncio.to_thread(effect.function)
            case ReadSource():
                return await _read_source(effect.source, effect.size)
            case Send():
                return await self._transport.send(effect.request, _source_blocks(effect.request))
            case OpenStream():
                return await self._open_stream(effect.request)
            case CloseStream():
                return await self.close_stream()
            case GetToken():
                return await self._tokens.get_async(renew=effect.renew)
            case Sleep():
                return await asyncio.sleep(effect.seconds)

    async def _open_stream(self, request: HttpRequest) -> Any:
        stream = await self._transport.open(request)
        if not stream.is_success:
            try:
                return await stream.read_all(request.body_limit)
            finally:
                await stream.close()
        self._stream = stream
        return stream.head

    async def _read_stream(self) -> bytes:
        if self._stream is None:
            raise TransportFault("no response is open")
        return await self._stream.read()

    async def close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()


async def _read_source(source: ByteSource, size: int) -> bytes:
    if isinstance(source, AsyncIteratorSource):
        return await source.read_async(size)
    data: bytes = await asyncio.to_thread(source.read, size)  # type: ignore[attr-defined]  # a blocking source has it
    return data


def _source_blocks(request: HttpRequest) -> AsyncIterator[bytes] | None:
    return None if request.source is None else _read_blocks(request, request.source)


async def _read_blocks(request: HttpRequest, source: ByteSource) -> AsyncIterator[bytes]:
    missing = request.length or 0
    while missing:
        block = await _read_source(source, min(missing, SOURCE_BLOCK_BYTES))
        if not block:
            raise TransportFault("the source ended before its length")
        missing -= len(block)
        yield block
