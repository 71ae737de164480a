"""Which sids are connected or away, over all replicas: read from Redis, and where its records may have expired, from the replicas.

While Redis refuses writes, no record is renewed, and each expires though its socket stays open. A replica that has seen that
asks the others before it calls a sid away or unknown.
"""

from services.common.errors import NotFound, ServiceUnavailable
from services.socket.broker import RedisBroker
from services.socket.hub import Hub
from services.socket.replica_queries import ReplicaQueries, local_presence
from services.socket.sessions import Presence, SessionStore


class PresenceLookup:
    """The presence of every sid. Methods raise ServiceUnavailable while neither Redis nor the replicas can tell it."""

    def __init__(self, hub: Hub, sessions: SessionStore, broker: RedisBroker, queries: ReplicaQueries) -> None:
        self._hub = hub
        self._sessions = sessions
        self._broker = broker
        self._queries = queries

    async def find(self, sid: str) -> Presence | None:
        """The presence of one sid, or None if there is none."""
        client = self._hub.find(sid)
        if client is not None:
            return local_presence(client, self._sessions.node)
        return next(iter(await self._find_many([sid])), None)

    async def list_page(self, after: str, limit: int) -> tuple[list[Presence], str | None]:
        """Up to `limit` presences in the order of their sids, and the sid after which the next page starts."""
        sids = await self._sessions.list_sids(after, limit)
        return await self._find_many(sids), sids[-1] if len(sids) == limit else None

    async def raise_not_found(self, sid: str) -> None:
        """Raise the error for a sid of which Redis has no record.

        NotFound if no replica holds it; ServiceUnavailable if one does, so that its record is missing, or if not all can be asked.
        """
        if self._hub.find(sid) is None:
            if self._broker.records_complete:
                raise NotFound("socket not found")
            result = await self._queries.ask([sid])
            if not result.presences:
                raise NotFound("socket not found") if result.complete else _cannot_ask(self._broker)
        raise ServiceUnavailable(
            self._broker.refusal or "the session of this socket is not registered in Redis yet", retry_after=1
        )

    async def _find_many(self, sids: list[str]) -> list[Presence]:
        stored = {presence.sid: presence for presence in await self._sessions.find_many(sids)}
        if self._broker.records_complete or not sids:
            return list(stored.values())
        result = await self._queries.ask(sids)
        if not result.complete and len(result.presences) < len(sids):
            raise _cannot_ask(self._broker)
        # No replica holds the others, whatever their records say: an end could not be written either.
        found = {sid: presence.as_away() for sid, presence in stored.items()} | result.presences
        return [found[sid] for sid in sids if sid in found]


def _cannot_ask(broker: RedisBroker) -> ServiceUnavailable:
    return ServiceUnavailable(broker.refusal or "not every replica can be asked for this socket", retry_after=1)
