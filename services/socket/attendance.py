"""Keeps the directory true about the sockets that are here: refreshes their records, notes who leaves, sweeps what has ended.

It knows the hub and the directory. What Redis cannot be told while it is away is told when it is back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.common.errors import Unavailable
from services.common.tasks import end
from services.socket.directory import Directory, Seat
from services.socket.hub import Hub, Peer
from services.socket.scripts import REFRESH_SECONDS

TOGETHER_SECONDS = 0.05
"""Those who leave, or prove that they have returned, within so long are noted in one call."""
SWEEP = 1000
"""Sids looked at in each round, so that those whose record has ended leave the list of all. Twice as many as may enter meanwhile,
or the list would grow for as long as clients come and go at that rate. Some 0.5 ms of Redis.
"""


class Attendance:
    """One for each replica."""

    def __init__(self, hub: Hub, directory: Directory) -> None:
        self._hub = hub
        self._directory = directory
        self._left: list[tuple[str, str, str]] = []
        self._proved: list[tuple[str, str]] = []
        self._returned: list[Peer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = ""
        self._turn = 0

    def leave(self, peer: Peer) -> None:
        """A connection has ended: its sid is away from now on."""
        if self._hub.disconnect(peer):
            self._gone(peer.sid, peer.secret, peer.proved)

    def never_came(self, sid: str, secret: str) -> None:
        """A sid was claimed with this secret, and nobody knows whether it was granted: who should have it does not enter."""
        self._gone(sid, secret, "")

    def _gone(self, sid: str, secret: str, position: str) -> None:
        self._soon()
        self._left.append((sid, secret, position))

    def confirm(self, peer: Peer) -> None:
        """The client holds its new secret; the one before may open nothing any more."""
        peer.confirmed = True
        self._soon()
        self._proved.append((peer.sid, peer.secret))

    def returned(self, peer: Peer) -> None:
        """A sid was claimed for this peer, and may have been claimed by another replica before this one held it: then the word of
        that found nobody here. The next round asks.
        """
        self._returned.append(peer)

    def move(self, peer: Peer) -> None:
        """The sid has gone to another connection: this one is nobody's."""
        self._hub.disconnect(peer)
        peer.sink.close(1008, "resumed elsewhere")

    def expel(self, peer: Peer) -> None:
        """An operator has closed this sid for good."""
        self._hub.disconnect(peer)
        peer.sink.close(1008, "closed by an operator")

    async def keep(self, peers: Sequence[Peer]) -> None:
        """Refresh the records of these peers, make those that Redis has forgotten, close who has resumed elsewhere."""
        asked = {peer.sid: peer for peer in peers}
        try:
            moved, closed = await self._directory.refresh([_seat(peer) for peer in peers])
        finally:
            # Whose leave was noted meanwhile may be online again by this refresh. It changes nothing for who has resumed elsewhere.
            for peer in peers:
                if self._hub.find(peer.sid) is not peer:
                    self._gone(peer.sid, peer.secret, peer.proved)
        for sid in moved:
            # Who has resumed on this very replica meanwhile is another peer.
            if self._hub.find(sid) is asked[sid]:
                self.move(asked[sid])
        for sid in closed:
            self.expel(asked[sid])

    async def round(self, *, everyone: bool) -> None:
        """What is due each second: a part of all records, or all of them where this replica was taken for dead."""
        await self._note()
        ready = self._hub.ready()
        self._turn = (self._turn + 1) % REFRESH_SECONDS
        returned, self._returned = self._returned, []
        here = [peer for peer in returned if self._hub.find(peer.sid) is peer]
        await self.keep(ready if everyone else [*ready[self._turn :: REFRESH_SECONDS], *here])
        self._swept = await self._directory.sweep(self._swept, SWEEP)

    async def aclose(self) -> None:
        """Note who has left."""
        await end(*self._tasks)
        with suppress(Unavailable):
            await self._note()

    def _soon(self) -> None:
        if not self._left and not self._proved:
            task = asyncio.create_task(self._note_soon())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _note_soon(self) -> None:
        await asyncio.sleep(TOGETHER_SECONDS)
        with suppress(Unavailable):
            await self._note()

    async def _note(self) -> None:
        """Tell Redis who has left and who has proved its secret; keep what it could not be told for the next time."""
        left, self._left = self._left, []
        proved, self._proved = self._proved, []
        try:
            await self._directory.confirm(proved)
            await self._directory.leave(left)
        except Unavailable:
            self._left += left
            self._proved += proved
            raise


def _seat(peer: Peer) -> Seat:
    return Seat(peer.sid, peer.secret, peer.proved, peer.since, peer.meta, dict(peer.topics))
