"""Bounds what the sessions of disconnected clients take in Redis: discards the oldest, first those that never answered a ping.

A handshake of 8 KiB leaves a session of 12 KB for the resume window. Without a bound, clients that connect and leave at the
permitted rate fill Redis.
"""

from collections import OrderedDict

from services.socket.hub import SocketClient
from services.socket.sessions import RESUME_WINDOW_SECONDS

MAX_AWAY_BYTES = 64 * 1024 * 1024
"""Estimated bytes of the away sessions of one replica: 60,000 with few topics, 5,000 with all that a handshake can ask for."""
MAX_UNANSWERED_AWAY_BYTES = 8 * 1024 * 1024
"""Of them, sessions whose client answered no ping: it left within one round trip."""
SESSION_BYTES = 700
TOPIC_BYTES = 80
"""Bytes in Redis of a session, and of one topic, besides their texts."""


class AwaySessions:
    """The sessions that this replica has marked as away and that have not expired."""

    def __init__(self) -> None:
        self._answered = _Queue(MAX_AWAY_BYTES)
        self._unanswered = _Queue(MAX_UNANSWERED_AWAY_BYTES)

    def add(self, client: SocketClient, now: float) -> list[tuple[str, str]]:
        """Add the session of a client that is away since `now` (monotonic seconds).

        Returns sessions (sid, secret hash) to discard. Those that were resumed meanwhile have another secret and are not affected.
        """
        queue = self._answered if client.answered_ping else self._unanswered
        queue.add(client.sid, client.secret_hash, estimate_bytes(client), now)
        return [*self._answered.take_excess(now), *self._unanswered.take_excess(now)]


def estimate_bytes(client: SocketClient) -> int:
    """About how many bytes the session of a client takes in Redis."""
    return SESSION_BYTES + len(client.meta) + sum(TOPIC_BYTES + len(topic) for topic in client.topics)


class _Queue:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sessions: OrderedDict[str, tuple[str, int, float]] = OrderedDict()

    def add(self, sid: str, secret_hash: str, size: int, now: float) -> None:
        if sid in self._sessions:
            self._bytes -= self._sessions.pop(sid)[1]
        self._sessions[sid] = (secret_hash, size, now)
        self._bytes += size

    def take_excess(self, now: float) -> list[tuple[str, str]]:
        """Remove the expired sessions, and then the oldest until the rest fits. Returns the latter."""
        excess = []
        while self._sessions:
            sid, (secret_hash, size, since) = next(iter(self._sessions.items()))
            if now - since < RESUME_WINDOW_SECONDS:
                if self._bytes <= self._max_bytes:
                    break
                excess.append((sid, secret_hash))
            del self._sessions[sid]
            self._bytes -= size
        return excess
