"""Asks all replicas which of some sids they hold, over Redis pub/sub, which a Redis that refuses writes still serves.

A query is published to all replicas, and each answers on the channel of the one that asks, also where it holds none of the sids:
the number of answers tells whether all were heard.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from gridcast._bus.keys import ALL_CHANNEL
from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.redis import RedisClient
from services.common.errors import ServiceUnavailable
from services.socket.hub import Hub, SocketClient
from services.socket.sessions import READS_PER_CALL, Presence, parse_meta

ANSWER_TIMEOUT_SECONDS = 1.0
"""A replica that has not answered within this time cannot be asked."""
MAX_PENDING_ANSWERS = 100
"""Answers that this replica writes at the same time. Further queries get none, and their senders have not heard all replicas."""


@dataclass(slots=True)
class QueryResult:
    """The presences of the sids that some replica holds. `complete`: every replica has answered, so no other sid is held."""

    presences: dict[str, Presence]
    complete: bool


class _PendingQuery:
    """A query whose answers are being collected. `expected` is None until Redis has said how many replicas received it."""

    def __init__(self) -> None:
        self.answers: list[list[dict[str, Any]]] = []
        self.expected: int | None = None
        self.done = asyncio.Event()

    def check(self) -> None:
        if self.expected is not None and len(self.answers) >= self.expected:
            self.done.set()


class ReplicaQueries:
    """The queries and answers of one replica, whose channel is `node_channel`."""

    def __init__(self, redis: RedisClient, hub: Hub, node: str, node_channel: str) -> None:
        self._redis = redis
        self._hub = hub
        self._node = node
        self._node_channel = node_channel
        self._pending: dict[str, _PendingQuery] = {}
        self._answers: set[asyncio.Task[None]] = set()

    async def ask(self, sids: Sequence[str]) -> QueryResult:
        """Ask all replicas for these sids. Raises ServiceUnavailable while Redis is unavailable."""
        result = QueryResult({}, complete=True)
        for start in range(0, len(sids), READS_PER_CALL):
            await self._ask_batch(sids[start : start + READS_PER_CALL], result)
        return result

    async def _ask_batch(self, sids: Sequence[str], result: QueryResult) -> None:
        query_id, query = uuid4().hex, _PendingQuery()
        self._pending[query_id] = query
        message = {"type": "find", "sid": "", "id": query_id, "sids": sids, "reply": self._node_channel}
        try:
            query.expected = int(await self._redis.execute("PUBLISH", ALL_CHANNEL, json.dumps(message)))
            query.check()
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                await query.done.wait()
        except TimeoutError:
            result.complete = False
        finally:
            del self._pending[query_id]
        # No receiver at all: not even this replica is subscribed.
        result.complete &= bool(query.expected)
        for presence in (_parse_presence(found) for answer in query.answers for found in answer):
            # The newer connection of a session that two replicas hold for a moment.
            known = result.presences.get(presence.sid)
            if known is None or known.connected_at <= presence.connected_at:
                result.presences[presence.sid] = presence

    def on_query(self, message: dict[str, Any]) -> None:
        """Answer the query of a replica. Raises ValueError for a malformed one."""
        sids, channel = message.get("sids"), message.get("reply")
        if not isinstance(sids, list) or not isinstance(channel, str):
            raise ValueError("malformed query")  # noqa: TRY004  # one error for every malformed message
        if len(self._answers) >= MAX_PENDING_ANSWERS:
            return
        clients = [self._hub.find(sid) for sid in sids if isinstance(sid, str)]
        found = [_encode_presence(client, self._node) for client in clients if client is not None]
        answer = {"type": "found", "sid": "", "id": message.get("id", ""), "found": found}
        task = asyncio.create_task(self._answer(channel, json.dumps(answer)))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, channel: str, answer: str) -> None:
        try:
            await self._redis.execute("PUBLISH", channel, answer)
        except ServiceUnavailable:
            return  # the replica that asked does not hear all

    def on_answer(self, message: dict[str, Any]) -> None:
        """Collect the answer of a replica. Raises ValueError for a malformed one."""
        found = message.get("found")
        if not isinstance(found, list):
            raise ValueError("malformed answer")  # noqa: TRY004  # as above
        query = self._pending.get(message.get("id", ""))
        if query is not None:
            query.answers.append(found)
            query.check()

    async def aclose(self) -> None:
        """Stop answering."""
        await cancel_and_wait(*self._answers)


def local_presence(client: SocketClient, node: str) -> Presence:
    """The presence of a client that this replica, `node`, holds."""
    return Presence(
        sid=client.sid,
        online=True,
        node=node,
        connected_at=client.connected_at,
        disconnected_at=None,
        topics=sorted(client.topics),
        meta=parse_meta(client.meta),
    )


def _encode_presence(client: SocketClient, node: str) -> dict[str, Any]:
    return {
        "sid": client.sid,
        "node": node,
        "since": client.connected_at,
        "topics": sorted(client.topics),
        "meta": client.meta,
    }


def _parse_presence(found: dict[str, Any]) -> Presence:
    return Presence(
        sid=found["sid"],
        online=True,
        node=found["node"],
        connected_at=found["since"],
        disconnected_at=None,
        topics=found["topics"],
        meta=parse_meta(found["meta"]),
    )
