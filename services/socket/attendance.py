"""Keeps the directory true about the sockets that are here: refreshes their records, notes who leaves, sweeps what has ended.

It knows the hub and the directory. What Redis cannot be told while it is away is told when it is back.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from services.common.errors import Unavailable
from services.common.tasks import end
from services.socket.directory import Directory, Seat
from services.socket.hub import Hub, Peer
from services.socket.scripts import REFRESH_SECONDS

LEAVE_SECONDS = 0.05
"""Those who leave within so long are noted in one call."""
SWEEP = 200
"""Sids looked at in each round, so that those whose record has ended leave the list of all."""


class Attendance:
    """One for each replica."""

    def __init__(self, hub: Hub, directory: Directory) -> None:
        self._hub = hub
        self._directory = directory
        self._left: list[tuple[str, str, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = ""
        self._turn = 0

    def leave(self, peer: Peer) -> None:
        """A connection has ended: its sid is away from now on."""
        if self._hub.disconnect(peer):
            if not self._left:
                self._go(self._leave_soon())
            self._left.append((peer.sid, peer.secret, peer.proved))

    def confirm(self, peer: Peer) -> None:
        """The client holds its new secret; the one before may open nothing any more."""
        peer.confirmed = True
        self._go(self._confirm(peer))

    def move(self, peer: Peer) -> None:
        """The sid has gone to another connection: this one is nobody's."""
        self._hub.disconnect(peer)
        peer.sink.close(1008, "resumed elsewhere")

    async def keep(self, peers: Sequence[Peer]) -> None:
        """Refresh the records of these peers, make those that Redis has forgotten, close who has resumed elsewhere."""
        for sid in await self._directory.refresh([_seat(peer) for peer in peers]):
            peer = self._hub.find(sid)
            if peer is not None and peer.held is None:
                self.move(peer)

    async def round(self, *, everyone: bool) -> None:
        """What is due each second: a part of all records, or all of them where this replica was taken for dead."""
        await self._say_left()
        ready = self._hub.ready()
        self._turn = (self._turn + 1) % REFRESH_SECONDS
        await self.keep(ready if everyone else ready[self._turn :: REFRESH_SECONDS])
        _, after = await self._directory.page(self._swept, SWEEP)
        self._swept = after or ""

    async def aclose(self) -> None:
        """Note who has left."""
        await end(*self._tasks)
        with suppress(Unavailable):
            await self._say_left()

    async def _leave_soon(self) -> None:
        await asyncio.sleep(LEAVE_SECONDS)
        with suppress(Unavailable):
            await self._say_left()

    async def _say_left(self) -> None:
        left, self._left = self._left, []
        try:
            await self._directory.leave(left)
        except Unavailable:
            self._left += left
            raise

    async def _confirm(self, peer: Peer) -> None:
        with suppress(Unavailable):
            await self._directory.confirm(peer.sid, peer.secret)

    def _go(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _seat(peer: Peer) -> Seat:
    return Seat(peer.sid, peer.secret, peer.proved, peer.since, peer.meta, dict(peer.topics))
