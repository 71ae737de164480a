"""Who in this process writes which resumable upload: a newer request cuts the older one. And hashes of what was written."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import Conflict
from services.upload.body import Body

YIELD_SECONDS = 5.0
"""How long a newer request waits for the older one's last write. After that the fence alone decides."""
HASHES = 1024
"""So many unfinished uploads need not be read back when they end in the process where they began."""


@dataclass(slots=True)
class _Writer:
    body: Body
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Writers:
    """The open requests by the address of their upload."""

    def __init__(self) -> None:
        self._open: dict[str, _Writer] = {}
        self._hashes: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    @asynccontextmanager
    async def only(self, address: str, body: Body) -> AsyncIterator[None]:
        """Be the only writer in this process: the older request is cut, and has stopped when this begins."""
        older, writer = self._open.get(address), _Writer(body)
        self._open[address] = writer
        try:
            await _leave(older)
            yield
        finally:
            writer.gone.set()
            if self._open.get(address) is writer:
                del self._open[address]

    async def cut(self, address: str) -> None:
        """Return when nobody in this process writes it."""
        await _leave(self._open.get(address))

    def keep(self, address: str, hashed: tuple[int, Any]) -> None:
        """Remember the hash of so many blocks."""
        self._hashes[address] = hashed
        self._hashes.move_to_end(address)
        if len(self._hashes) > HASHES:
            self._hashes.popitem(last=False)

    def hashed(self, address: str, blocks: int) -> Any:
        """The hash of exactly that many blocks, if it was made here. It is given away: ask once."""
        known = self._hashes.pop(address, None)
        return known[1] if known is not None and known[0] == blocks else None


async def _leave(writer: _Writer | None) -> None:
    if writer is not None:
        writer.body.cut(Conflict("this upload was taken over"))
        with suppress(TimeoutError):
            async with asyncio.timeout(YIELD_SECONDS):
                await writer.gone.wait()
