"""Both clients of the package behind one blocking interface, so that one suite tests both: fixture `shell`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

import pytest

from gridcast import AsyncClient, AsyncListener, Client, EventGap, Listener, ReceivedEvent
from tests.support.stack import Stack


class OpenListener(Protocol):
    """A listener that is connected."""

    @property
    def sid(self) -> str: ...

    def next(self) -> ReceivedEvent | EventGap: ...

    def call(self, name: str, *arguments: Any) -> None: ...


class Shell(Protocol):
    """One of the two clients."""

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method and return its result."""

    def items(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        """Call a method that iterates and return everything."""

    def read(self, path: str, reads: Iterable[tuple[int, int]]) -> list[bytes]:
        """Open a file and read at positions."""

    def blocks(self, blocks: list[bytes]) -> Any:
        """An iterator of the kind that is this client's own."""

    def listen(self, *topics: str) -> contextlib.AbstractContextManager[OpenListener]: ...


class _SyncListener:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    @property
    def sid(self) -> str:
        return str(self._listener.sid)

    def next(self) -> ReceivedEvent | EventGap:
        return next(self._listener)

    def call(self, name: str, *arguments: Any) -> None:
        getattr(self._listener, name)(*arguments)


class SyncShell:
    """Client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._client, name)(*arguments, **options)

    def items(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        return list(self.call(name, *arguments, **options))

    def read(self, path: str, reads: Iterable[tuple[int, int]]) -> list[bytes]:
        with self._client.open(path) as file:
            return [file.read(size) or b"" for position, size in reads if file.seek(position) >= 0]

    def blocks(self, blocks: list[bytes]) -> Any:
        return iter(blocks)

    @contextlib.contextmanager
    def listen(self, *topics: str) -> Iterator[OpenListener]:
        with self._client.listen(*topics) as listener:
            yield _SyncListener(listener)


class _AsyncListener:
    def __init__(self, listener: AsyncListener, runner: asyncio.Runner) -> None:
        self._listener = listener
        self._runner = runner

    @property
    def sid(self) -> str:
        return str(self._listener.sid)

    def next(self) -> ReceivedEvent | EventGap:
        async def receive() -> ReceivedEvent | EventGap:
            return await asyncio.wait_for(anext(self._listener), 30)

        return self._runner.run(receive())

    def call(self, name: str, *arguments: Any) -> None:
        self._runner.run(getattr(self._listener, name)(*arguments))


class AsyncShell:
    """AsyncClient, in an event loop that runs while a method is called."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return self._runner.run(getattr(self._client, name)(*arguments, **options))

    def items(self, name: str, *arguments: Any, **options: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [item async for item in getattr(self._client, name)(*arguments, **options)]

        return self._runner.run(collect())

    def read(self, path: str, reads: Iterable[tuple[int, int]]) -> list[bytes]:
        async def collect() -> list[bytes]:
            async with await self._client.open(path) as file:
                return [await file.read(size) for position, size in reads if file.seek(position) >= 0]

        return self._runner.run(collect())

    def blocks(self, blocks: list[bytes]) -> Any:
        async def iterate() -> AsyncIterator[bytes]:
            for block in blocks:
                yield block

        return iterate()

    @contextlib.contextmanager
    def listen(self, *topics: str) -> Iterator[OpenListener]:
        listener = self._client.listen(*topics)
        self._runner.run(listener.connect())
        try:
            yield _AsyncListener(listener, self._runner)
        finally:
            self._runner.run(listener.aclose())


@contextlib.contextmanager
def open_shell(kind: str, url: str, **options: Any) -> Iterator[Shell]:
    """One of the clients, `sync` or `async`, for the block."""
    if kind == "sync":
        with Client(url, **options) as client:
            yield SyncShell(client)
    else:
        with asyncio.Runner() as runner:
            opened = AsyncClient(url, **options)
            yield AsyncShell(opened, runner)
            runner.run(opened.aclose())


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Shell]:
    """Each client in turn, of the stack that the session shares."""
    with open_shell(request.param, stack.url) as opened:
        yield opened
