"""Keeps the directory true about the sockets that are here: refreshes their records, notes who leaves, sweeps what has ended.

It knows the hub and the directory. What Redis cannot be told while it is away is told when it is back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable
from services.socket.disconnect import CLOSED_BY_OPERATOR, RESUMED_ELSEWHERE
from services.socket.hub import Hub, SocketClient
from services.socket.sessions import SessionRecord, SessionStore

REFRESH_INTERVAL_SECONDS = 30
"""Seconds in which every record of this replica is refreshed once, a thirtieth of them each second."""
FLUSH_DELAY_SECONDS = 0.05
"""Those who leave, or prove that they have returned, within so long are noted in one call."""
PRUNE_BATCH_SIZE = 1000
"""Sids looked at in each round, so that those whose record has ended leave the list of all. Twice as many as may enter meanwhile,
or the list would grow for as long as clients come and go at that rate. Some 0.5 ms of Redis.
"""


class PresenceManager:
    """One for each replica."""

    def __init__(self, hub: Hub, sessions: SessionStore) -> None:
        self._hub = hub
        self._sessions = sessions
        self._pending_away: list[tuple[str, str, str]] = []
        self._pending_confirmations: list[tuple[str, str]] = []
        self._recheck_clients: list[SocketClient] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._prune_cursor = ""
        self._refresh_slot = 0

    def mark_away(self, client: SocketClient) -> None:
        """A connection has ended: its sid is away from now on."""
        if self._hub.remove(client):
            self._queue_away(client.sid, client.secret_hash, client.confirmed_position)

    def abandon_session(self, sid: str, secret_hash: str) -> None:
        """A sid was claimed with this secret, and nobody knows whether it was granted: who should have it does not enter."""
        self._queue_away(sid, secret_hash, "")

    def _queue_away(self, sid: str, secret_hash: str, position: str) -> None:
        self._schedule_flush()
        self._pending_away.append((sid, secret_hash, position))

    def confirm_secret(self, client: SocketClient) -> None:
        """The client holds its new secret; the one before may open nothing any more."""
        client.secret_confirmed = True
        self._schedule_flush()
        self._pending_confirmations.append((client.sid, client.secret_hash))

    def schedule_recheck(self, client: SocketClient) -> None:
        """A sid was claimed for this peer, and may have been claimed by another replica before this one held it: then the word of
        that found nobody here. The next round asks.
        """
        self._recheck_clients.append(client)

    def close_superseded(self, client: SocketClient) -> None:
        """The sid has gone to another connection: this one is nobody's."""
        self._hub.remove(client)
        client.disconnect(RESUMED_ELSEWHERE)

    def kick(self, client: SocketClient) -> None:
        """An operator has closed this sid for good."""
        self._hub.remove(client)
        client.disconnect(CLOSED_BY_OPERATOR)

    async def refresh(self, clients: Sequence[SocketClient]) -> None:
        """Refresh the records of these clients, restore those that Redis lost, and close those resumed on another node."""
        asked = {peer.sid: peer for peer in clients}
        try:
            moved, closed = await self._sessions.refresh([_session_record(peer) for peer in clients])
        finally:
            # Whose leave was noted meanwhile may be online again by this refresh. It changes nothing for a resumed session.
            for peer in clients:
                if self._hub.find(peer.sid) is not peer:
                    self._queue_away(peer.sid, peer.secret_hash, peer.confirmed_position)
        for sid in moved:
            # Who has resumed on this very replica meanwhile is another peer.
            if self._hub.find(sid) is asked[sid]:
                self.close_superseded(asked[sid])
        for sid in closed:
            self.kick(asked[sid])

    async def tick(self, *, refresh_all: bool) -> None:
        """What is due each second: a part of all records, or all of them where this replica was taken for dead."""
        await self._flush()
        ready = self._hub.ready_clients()
        self._refresh_slot = (self._refresh_slot + 1) % REFRESH_INTERVAL_SECONDS
        returned, self._recheck_clients = self._recheck_clients, []
        here = [peer for peer in returned if self._hub.find(peer.sid) is peer]
        await self.refresh(ready if refresh_all else [*ready[self._refresh_slot :: REFRESH_INTERVAL_SECONDS], *here])
        self._prune_cursor = await self._sessions.prune_expired(self._prune_cursor, PRUNE_BATCH_SIZE)

    async def aclose(self) -> None:
        """Note who has left."""
        await cancel_and_wait(*self._tasks)
        with suppress(ServiceUnavailable):
            await self._flush()

    def _schedule_flush(self) -> None:
        if not self._pending_away and not self._pending_confirmations:
            task = asyncio.create_task(self._flush_later())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_DELAY_SECONDS)
        with suppress(ServiceUnavailable):
            await self._flush()

    async def _flush(self) -> None:
        """Tell Redis who has left and who has proved its secret; keep what it could not be told for the next time."""
        left, self._pending_away = self._pending_away, []
        proved, self._pending_confirmations = self._pending_confirmations, []
        try:
            await self._sessions.confirm_secrets(proved)
            await self._sessions.mark_away(left)
        except ServiceUnavailable:
            self._pending_away += left
            self._pending_confirmations += proved
            raise


def _session_record(client: SocketClient) -> SessionRecord:
    return SessionRecord(
        client.sid, client.secret_hash, client.confirmed_position, client.connected_at, client.meta, dict(client.topics)
    )
