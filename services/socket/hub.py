"""The connections of this replica, by sid and by topic: adds, removes, finds them, and fans events out to them."""

from collections.abc import Callable, Collection
from typing import Protocol

from services.common.auth.identity import Identity
from services.common.auth.rights import Rights
from services.socket.disconnect import Disconnect

MAX_REPLAY_BUFFER_EVENTS = 256
MAX_REPLAY_BUFFER_BYTES = 1024 * 1024
"""Events that wait for a client's replay to end: the limits of the send queue, which holds them afterwards. Beyond them the replay
goes on with the history, which has these events as well.
"""
GAP_PREFIX = "!"
"""Prefix of a stored position: see `SocketClient.confirmed_position`."""
MAX_PENDING_ACKS = 256
"""Events of one client whose acks are pending; the oldest is dropped first."""


class Sink(Protocol):
    """The sending side of a connection. No method blocks or raises; frames after `close` are dropped.

    `send_now` sends a complete frame as `write` without a key does, for the fan-out. The connection replaces it when its state
    changes: look it up for each frame and never store it.
    """

    send_now: Callable[[bytes], None]

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Send a complete frame, or queue it while the client reads too slowly; `conflation_key` as in SendQueue."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and abort the connection if the client does not answer it."""


class Publication:
    """One event as it is sent to clients: its offset in the stream and its frame, encoded once for all of them.

    `folder` is that of a file which the event describes: only who may read it receives the event. None for events that all may see.
    """

    __slots__ = ("_verdicts", "ack_channel", "conflation_key", "event_id", "folder", "frame", "offset")

    def __init__(
        self,
        offset: int,
        frame: bytes,
        conflation_key: str = "",
        ack_channel: str = "",
        event_id: str = "",
        folder: str | None = None,
    ) -> None:
        self.offset = offset
        self.frame = frame
        self.conflation_key = conflation_key
        self.ack_channel = ack_channel
        self.event_id = event_id
        self.folder = folder
        self._verdicts: dict[Rights, bool] | None = None

    def is_visible_to(self, identity: Identity | None) -> bool:
        """Return whether a client may see the event: decided once for each distinct set of rights, not for each client."""
        if self.folder is None or identity is None:
            return True
        if self._verdicts is None:
            self._verdicts = {}
        rights = identity.rights
        if (verdict := self._verdicts.get(rights)) is None:
            verdict = self._verdicts[rights] = rights.may_folder("read", self.folder)
        return verdict


class SocketClient:
    """One connection. `position` is the offset of the last event written to its sink; an event that is not newer is dropped.

    `replay_buffer` is a list while the client's history is replayed, and None afterwards; `replay_overflowed` says that it has
    dropped events, which the history has. `confirmed_position` is the position up
    to which the client has certainly read: the one before a ping that it has answered. With GAP_PREFIX it is the end of a gap that
    a frame has announced to the client, until an answered ping proves that the client has read that frame.
    `secret_confirmed` is False until a client that resumed has proved that it holds its new secret. `claim` is that of its
    AcquiredSession: a client is superseded only by a higher one.

    `welcomed`: the client can know its session. Until then a new session ends with its connection. `answered_ping`: it has read
    something of this connection. `identity` is None where authentication is off. `expiring_sent`: the client was warned that its
    token ends.
    """

    __slots__ = (
        "_replay_buffer_bytes",
        "answered_ping",
        "claim",
        "confirmed_position",
        "connected_at",
        "expiring_sent",
        "identity",
        "meta",
        "pending_acks",
        "pinged_position",
        "position",
        "replay_buffer",
        "replay_overflowed",
        "secret_confirmed",
        "secret_hash",
        "sid",
        "sink",
        "topics",
        "welcomed",
    )

    def __init__(
        self,
        sid: str,
        secret_hash: str,
        sink: Sink,
        meta: str = "",
        connected_at: int = 0,
        identity: Identity | None = None,
    ) -> None:
        self.sid = sid
        self.secret_hash = secret_hash
        self.sink = sink
        self.meta = meta
        self.connected_at = connected_at
        self.identity = identity
        self.expiring_sent = False
        self.claim = 0
        self.welcomed = False
        self.answered_ping = False
        self.topics: dict[str, int] = {}
        self.position = 0
        self.confirmed_position = ""
        self.pinged_position = ""
        self.secret_confirmed = True
        self.replay_buffer: list[Publication] | None = []
        self.replay_overflowed = False
        self._replay_buffer_bytes = 0
        self.pending_acks: dict[str, str] = {}

    def deliver_or_buffer(self, publication: Publication) -> None:
        """Send an event, or buffer it during the replay, which must be continued from the history once the buffer is full."""
        if self.replay_buffer is None:
            self.deliver(publication)
            return
        self._replay_buffer_bytes += len(publication.frame)
        if len(self.replay_buffer) < MAX_REPLAY_BUFFER_EVENTS and self._replay_buffer_bytes <= MAX_REPLAY_BUFFER_BYTES:
            self.replay_buffer.append(publication)
        else:
            self.replay_overflowed = True
            self.replay_buffer.clear()

    def disconnect(self, disconnect: Disconnect) -> None:
        """Close the connection with the code and the reason of `disconnect`."""
        self.sink.close(disconnect.code, disconnect.reason)

    def record_gap(self, end_position: str) -> None:
        """Record that a gap up to `end_position` is being announced to the client, which may never read it."""
        self.confirmed_position = f"{GAP_PREFIX}{end_position}"
        self.pinged_position = ""

    def deliver(self, publication: Publication) -> None:
        """Send an event now, if it is newer than the last one. One that the client may not see only moves its position."""
        if publication.offset > self.position:
            self.position = publication.offset
            if not publication.is_visible_to(self.identity):
                return
            if publication.ack_channel:
                self._expect_ack(publication)
            self.sink.write(publication.frame, publication.conflation_key)

    def clear_replay_buffer(self) -> None:
        """Continue the replay: events that are already in the buffer are going to be read from the history."""
        self.replay_buffer = []
        self.replay_overflowed = False
        self._replay_buffer_bytes = 0

    def flush_replay_buffer(self) -> None:
        """End the replay: send the buffered events. Later events are sent at once."""
        buffered, self.replay_buffer = self.replay_buffer or [], None
        for publication in buffered:
            self.deliver_or_buffer(publication)

    def _expect_ack(self, publication: Publication) -> None:
        if len(self.pending_acks) >= MAX_PENDING_ACKS:
            del self.pending_acks[next(iter(self.pending_acks))]
        self.pending_acks[publication.event_id] = publication.ack_channel


class Hub:
    """All clients of this replica. A broadcast costs one pass over them and builds nothing."""

    def __init__(self) -> None:
        self.clients: dict[str, SocketClient] = {}
        self.subscribers: dict[str, dict[str, SocketClient]] = {}

    def add(self, client: SocketClient) -> SocketClient | None:
        """Add a client. Returns the one that had its sid, if any: it is removed, and the caller disconnects it."""
        previous = self.clients.get(client.sid)
        if previous is not None:
            self.remove(previous)
        self.clients[client.sid] = client
        for topic in client.topics:
            self.subscribers.setdefault(topic, {})[client.sid] = client
        return previous

    def remove(self, client: SocketClient) -> bool:
        """Remove a client. Returns False if another one has its sid."""
        if self.clients.get(client.sid) is not client:
            return False
        del self.clients[client.sid]
        for topic in list(client.topics):
            self._remove_subscriber(client, topic)
        return True

    def ready_clients(self) -> list[SocketClient]:
        """The clients whose replay has ended."""
        return [client for client in self.clients.values() if client.replay_buffer is None]

    def find(self, sid: str) -> SocketClient | None:
        """The client with this sid, or None."""
        return self.clients.get(sid)

    def subscribe(self, client: SocketClient, topic: str, since_offset: int) -> None:
        """Subscribe a client to a topic. It must miss no event after `since_offset`."""
        client.topics[topic] = since_offset
        if self.clients.get(client.sid) is client:
            self.subscribers.setdefault(topic, {})[client.sid] = client

    def unsubscribe(self, client: SocketClient, topic: str) -> None:
        """Unsubscribe a client from a topic."""
        if client.topics.pop(topic, None) is not None:
            self._remove_subscriber(client, topic)

    def _remove_subscriber(self, client: SocketClient, topic: str) -> None:
        subscribers = self.subscribers.get(topic, {})
        if subscribers.get(client.sid) is client:
            del subscribers[client.sid]
        if not subscribers:
            self.subscribers.pop(topic, None)

    def recipients(self, kind: str, name: str) -> Collection[SocketClient]:
        """The clients of a target: `sid` with a sid, `topic` with a topic, or `all`."""
        if kind == "all":
            return self.clients.values()
        if kind == "topic":
            return self.subscribers.get(name, {}).values()
        client = self.clients.get(name)
        return () if client is None else (client,)

    def fan_out(self, kind: str, name: str, publication: Publication) -> int:
        """Send one event to every client of a target. Returns their number. No client waits for another."""
        recipients = self.recipients(kind, name)
        offset, frame = publication.offset, publication.frame
        if publication.ack_channel or publication.conflation_key or publication.folder is not None:
            for client in recipients:
                client.deliver_or_buffer(publication)
        else:
            for client in recipients:
                if client.replay_buffer is not None:
                    client.deliver_or_buffer(publication)
                elif offset > client.position:
                    client.position = offset
                    client.sink.send_now(frame)
        return len(recipients)
