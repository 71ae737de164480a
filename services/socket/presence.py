"""Keeps the session records in Redis up to date for the clients of this replica: refreshes them, marks clients as away, and prunes
expired sids. What cannot be written while Redis is unavailable is written when it is back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import ServiceUnavailable
from services.socket.away_sessions import AwaySessions
from services.socket.disconnect import CLOSED_BY_OPERATOR, RESUMED_ELSEWHERE
from services.socket.hub import Hub, SocketClient
from services.socket.sessions import SessionRecord, SessionStore

REFRESH_INTERVAL_SECONDS = 30
"""Seconds in which every record of this replica is refreshed once, a thirtieth of them each second."""
FLUSH_DELAY_SECONDS = 0.05
"""Disconnects and confirmed secrets within this time are written in one call."""
PRUNE_BATCH_SIZE = 1000
"""Sids that each tick, once a second, examines to remove expired ones from the list of all. Twice the handshakes that may arrive in
that time (`handshake_rate`), or the list would grow while clients connect and leave at that rate. About 0.5 ms of Redis.
"""


class PresenceManager:
    """The presence of this replica's clients. One for each replica."""

    def __init__(self, hub: Hub, sessions: SessionStore) -> None:
        self._hub = hub
        self._sessions = sessions
        self._pending_away: list[tuple[str, str, str]] = []
        self._pending_discards: list[tuple[str, str]] = []
        self._away_sessions = AwaySessions()
        self._pending_confirmations: list[tuple[str, str]] = []
        self._recheck_clients: list[SocketClient] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._prune_cursor = ""
        self._refresh_slot = 0

    def mark_away(self, client: SocketClient) -> None:
        """Remove a client whose connection has ended, and mark its session as away; discard a session that it never learned of.

        That is written even if the client was removed before, as superseded: a session that another connection holds has another
        secret and is not affected, and one without a connection must not stay online.
        """
        self._hub.remove(client)
        if client.welcomed:
            self._queue_away(client.sid, client.secret_hash, client.confirmed_position)
            discards = self._away_sessions.add(client, asyncio.get_running_loop().time())
        else:
            discards = [(client.sid, client.secret_hash)]
        if discards:
            self._schedule_flush()
            self._pending_discards += discards

    def abandon_session(self, sid: str, secret_hash: str) -> None:
        """Mark a session as away whose acquisition had no reply: it may have succeeded, but its client is refused."""
        self._queue_away(sid, secret_hash, "")

    def _queue_away(self, sid: str, secret_hash: str, position: str) -> None:
        self._schedule_flush()
        self._pending_away.append((sid, secret_hash, position))

    def confirm_secret(self, client: SocketClient) -> None:
        """Record that the client holds its new secret, and revoke the previous one."""
        client.secret_confirmed = True
        self._schedule_flush()
        self._pending_confirmations.append((client.sid, client.secret_hash))

    def schedule_recheck(self, client: SocketClient) -> None:
        """Refresh this client's session at the next tick.

        Another replica may have acquired it between this replica's acquisition and the client's entry into the hub; its message
        then found no client here.
        """
        self._recheck_clients.append(client)

    def close_superseded(self, client: SocketClient) -> None:
        """Disconnect a client whose session another connection has resumed."""
        self._hub.remove(client)
        client.disconnect(RESUMED_ELSEWHERE)

    def kick(self, client: SocketClient) -> None:
        """Disconnect a client whose session an operator has closed for good."""
        self._hub.remove(client)
        client.disconnect(CLOSED_BY_OPERATOR)

    async def refresh(self, clients: Sequence[SocketClient]) -> None:
        """Refresh the records of these clients, restore those that Redis lost, and close those resumed on another node."""
        refreshed = {client.sid: client for client in clients}
        try:
            moved, closed = await self._sessions.refresh([_session_record(client) for client in clients])
        finally:
            # This refresh may have marked a client as online that has left meanwhile. A resumed session has another secret and is
            # not affected.
            for client in clients:
                if self._hub.find(client.sid) is not client:
                    self._queue_away(client.sid, client.secret_hash, client.confirmed_position)
        for sid in moved:
            # If the session was resumed on this replica meanwhile, the hub has another client.
            if self._hub.find(sid) is refreshed[sid]:
                self.close_superseded(refreshed[sid])
        for sid in closed:
            self.kick(refreshed[sid])

    async def tick(self, *, refresh_all: bool, prune: bool) -> None:
        """Do the work of each second: flush, refresh and prune.

        `refresh_all` refreshes all records instead of a thirtieth of them; it is set when this replica's key had expired. `prune`
        is not set while connected sids may have no record.
        """
        await self._flush()
        ready = self._hub.ready_clients()
        self._refresh_slot = (self._refresh_slot + 1) % REFRESH_INTERVAL_SECONDS
        due, self._recheck_clients = self._recheck_clients, []
        rechecks = [client for client in due if self._hub.find(client.sid) is client]
        await self.refresh(
            ready if refresh_all else [*ready[self._refresh_slot :: REFRESH_INTERVAL_SECONDS], *rechecks]
        )
        if prune:
            self._prune_cursor = await self._sessions.prune_expired(self._prune_cursor, PRUNE_BATCH_SIZE)

    async def aclose(self) -> None:
        """Write the pending disconnects and confirmations."""
        await cancel_and_wait(*self._tasks)
        with suppress(ServiceUnavailable):
            await self._flush()

    def _schedule_flush(self) -> None:
        if not self._pending_away and not self._pending_discards and not self._pending_confirmations:
            task = asyncio.create_task(self._flush_later())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_DELAY_SECONDS)
        with suppress(ServiceUnavailable):
            await self._flush()

    async def _flush(self) -> None:
        """Write pending disconnects, discards and confirmations. What Redis does not take is kept for the next flush."""
        disconnects, self._pending_away = self._pending_away, []
        discards, self._pending_discards = self._pending_discards, []
        confirmations, self._pending_confirmations = self._pending_confirmations, []
        try:
            await self._sessions.confirm_secrets(confirmations)
            await self._sessions.mark_away(disconnects)
            await self._sessions.discard(discards)
        except ServiceUnavailable:
            self._pending_away += disconnects
            self._pending_discards += discards
            self._pending_confirmations += confirmations
            raise


def _session_record(client: SocketClient) -> SessionRecord:
    return SessionRecord(
        client.sid,
        client.secret_hash,
        client.claim,
        client.confirmed_position,
        client.connected_at,
        client.meta,
        dict(client.topics),
    )
