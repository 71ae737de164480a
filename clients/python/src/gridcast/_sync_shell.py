"""The blocking shell: performs the effects of a flow one after the other."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from gridcast._flows.effects import (
    SOURCE_BLOCK_BYTES,
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
from gridcast._tokens import TokenCache
from gridcast._transport import HttpTransport, ResponseStream

T = TypeVar("T")
Page = tuple[Sequence[T], str | None]


class SyncShell:
    """Runs flows over one transport. Each run has a stream of its own, so threads may share a shell."""

    def __init__(self, transport: HttpTransport, tokens: TokenCache) -> None:
        self._transport = transport
        self._tokens = tokens

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        performer = _Performer(self._transport, self._tokens)
        try:
            effect = next(flow)
            while True:
                try:
                    result = performer.perform(effect)
                except BaseException as error:  # noqa: BLE001  # the flow decides, interrupts included
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()
            performer.close_stream()

    def pages(self, flow_of: Callable[[str | None], Flow[Page[T]]]) -> Iterator[T]:
        """Iterate over the entries of all pages. `flow_of` makes the flow of one, of its `after`: entries, and the next `after`."""
        after: str | None = None
        while True:
            page, after = self.run(flow_of(after))
            yield from page
            if after is None:
                return


class _Performer:
    def __init__(self, transport: HttpTransport, tokens: TokenCache) -> None:
        self._transport = transport
        self._tokens = tokens
        self._stream: ResponseStream | None = None

    def perform(self, effect: Effect) -> Any:
        match effect:
            case ReadStream():
                return self._read_stream()
            case Local():
                return effect.function()
            case ReadSource():
                return effect.source.read(effect.size)  # type: ignore[attr-defined]  # a blocking source has it
            case Send():
                return self._transport.send(effect.request, _source_blocks(effect.request))
            case OpenStream():
                return self._open_stream(effect.request)
            case CloseStream():
                return self.close_stream()
            case GetToken():
                return self._tokens.get(renew=effect.renew)
            case Sleep():
                return time.sleep(effect.seconds)

    def _open_stream(self, request: HttpRequest) -> Any:
        stream = self._transport.open(request)
        if not stream.is_success:
            with stream:
                return stream.read_all(request.body_limit)
        self._stream = stream
        return stream.head

    def _read_stream(self) -> bytes:
        if self._stream is None:
            raise TransportFault("no response is open")
        return self._stream.read()

    def close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _source_blocks(request: HttpRequest) -> Iterator[bytes] | None:
    if request.source is None:
        return None
    return _read_blocks(request)


def _read_blocks(request: HttpRequest) -> Iterator[bytes]:
    missing = request.length or 0
    while missing:
        block = request.source.read(min(missing, SOURCE_BLOCK_BYTES))  # type: ignore[union-attr]  # see the caller
        if not block:
            raise TransportFault("the source ended before its length")
        missing -= len(block)
        yield block
