"""The connections of this replica: connect, disconnect, send to one, to a topic, to all, find by sid.

Pure: it writes to a Sink it is given and knows neither Redis nor a transport nor a clock.
"""

from collections.abc import Callable, Collection
from typing import Protocol

from services.socket.disconnect import SLOW_CONSUMER, Disconnect

MAX_REPLAY_BUFFER_EVENTS = 256
MAX_REPLAY_BUFFER_BYTES = 1024 * 1024
"""What may wait for a socket's replay to end, as in the outbox afterwards."""
GAP_PREFIX = "!"
"""Before a noted place: see `Peer.proved`."""
MAX_PENDING_ACKS = 256
"""Acks that are still expected of one socket; the oldest is forgotten first."""


class Sink(Protocol):
    """Where a connection's frames go. Nothing here blocks or raises; after `close` frames are dropped.

    `put` does with a whole frame what `write` does without a key: for the one caller that writes to all. Another function may stand
    there at any time, as the state of the connection changes: it is looked up for each frame and never kept.
    """

    send_now: Callable[[bytes], None]

    def write(self, frame: bytes, conflation_key: str = "") -> None:
        """Send a whole frame, or keep it until the client has read; `key` as in Outbox."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye with `code`, and cut the connection if the client does not take that."""


class Publication:
    """One event on its way to sockets: its number in the sequence and its frame, built once for all of them."""

    __slots__ = ("ack_channel", "conflation_key", "event_id", "frame", "offset")

    def __init__(
        self, offset: int, frame: bytes, conflation_key: str = "", ack_channel: str = "", event_id: str = ""
    ) -> None:
        self.offset = offset
        self.frame = frame
        self.conflation_key = conflation_key
        self.ack_channel = ack_channel
        self.event_id = event_id


class SocketClient:
    """One connection. `position` is the number of the last event handed to its sink; lower ones are never handed over.

    `held` is a list while the socket is not ready for live events (its replay runs), and None afterwards. `proved` is the
    place in the sequence up to which the client has certainly read: the one before a ping that it has answered. With GAP in front
    it is the end of a gap that the client was told of, as long as no later ping proves that it has read that.
    `confirmed` is False until a client that resumed has proved that it holds its new secret.
    """

    __slots__ = (
        "_replay_buffer_bytes",
        "confirmed_position",
        "connected_at",
        "meta",
        "pending_acks",
        "pinged_position",
        "position",
        "replay_buffer",
        "secret_confirmed",
        "secret_hash",
        "sid",
        "sink",
        "topics",
    )

    def __init__(self, sid: str, secret_hash: str, sink: Sink, meta: str = "", connected_at: int = 0) -> None:
        self.sid = sid
        self.secret_hash = secret_hash
        self.sink = sink
        self.meta = meta
        self.connected_at = connected_at
        self.topics: dict[str, int] = {}
        self.position = 0
        self.confirmed_position = ""
        self.pinged_position = ""
        self.secret_confirmed = True
        self.replay_buffer: list[Publication] | None = []
        self._replay_buffer_bytes = 0
        self.pending_acks: dict[str, str] = {}

    def deliver_or_buffer(self, publication: Publication) -> None:
        """Hand an event over, or hold it while the replay runs."""
        if self.replay_buffer is None:
            self.deliver(publication)
            return
        self._replay_buffer_bytes += len(publication.frame)
        if len(self.replay_buffer) < MAX_REPLAY_BUFFER_EVENTS and self._replay_buffer_bytes <= MAX_REPLAY_BUFFER_BYTES:
            self.replay_buffer.append(publication)
        else:
            self.disconnect(SLOW_CONSUMER)

    def disconnect(self, disconnect: Disconnect) -> None:
        """Close the connection with the code and the reason of `disconnect`."""
        self.sink.close(disconnect.code, disconnect.reason)

    def record_gap(self, end_position: str) -> None:
        """A gap that ends at the place `gap` is told to the client now, which may never read it."""
        self.confirmed_position = f"{GAP_PREFIX}{end_position}"
        self.pinged_position = ""

    def deliver(self, publication: Publication) -> None:
        """Hand an event over now, unless it is not newer than the last one."""
        if publication.offset > self.position:
            self.position = publication.offset
            if publication.ack_channel:
                self._expect_ack(publication)
            self.sink.write(publication.frame, publication.conflation_key)

    def flush_replay_buffer(self) -> None:
        """The replay is over: hand over what was held, and from now on everything at once."""
        held, self.replay_buffer = self.replay_buffer or [], None
        for message in held:
            self.deliver_or_buffer(message)

    def _expect_ack(self, publication: Publication) -> None:
        if len(self.pending_acks) >= MAX_PENDING_ACKS:
            del self.pending_acks[next(iter(self.pending_acks))]
        self.pending_acks[publication.event_id] = publication.ack_channel


class Hub:
    """All peers of this replica. A broadcast costs one pass over them and builds nothing."""

    def __init__(self) -> None:
        self.clients: dict[str, SocketClient] = {}
        self.subscribers: dict[str, dict[str, SocketClient]] = {}

    def add(self, client: SocketClient) -> SocketClient | None:
        """Add a peer. The one that had its sid before, if any, is out of the hub and to be closed by the caller."""
        before = self.clients.get(client.sid)
        if before is not None:
            self.remove(before)
        self.clients[client.sid] = client
        for topic in client.topics:
            self.subscribers.setdefault(topic, {})[client.sid] = client
        return before

    def remove(self, client: SocketClient) -> bool:
        """Take a peer out. False where its place has been taken by another."""
        if self.clients.get(client.sid) is not client:
            return False
        del self.clients[client.sid]
        for topic in list(client.topics):
            self._remove_subscriber(client, topic)
        return True

    def ready_clients(self) -> list[SocketClient]:
        """The peers whose replay is over."""
        return [peer for peer in self.clients.values() if peer.replay_buffer is None]

    def find(self, sid: str) -> SocketClient | None:
        """The peer with this sid, if it is here."""
        return self.clients.get(sid)

    def subscribe(self, client: SocketClient, topic: str, since_offset: int) -> None:
        """Let a peer hear a topic. `since`: the number from which on it must miss nothing."""
        client.topics[topic] = since_offset
        if self.clients.get(client.sid) is client:
            self.subscribers.setdefault(topic, {})[client.sid] = client

    def unsubscribe(self, client: SocketClient, topic: str) -> None:
        """Let a peer hear a topic no more."""
        if client.topics.pop(topic, None) is not None:
            self._remove_subscriber(client, topic)

    def _remove_subscriber(self, client: SocketClient, topic: str) -> None:
        members = self.subscribers.get(topic, {})
        if members.get(client.sid) is client:
            del members[client.sid]
        if not members:
            self.subscribers.pop(topic, None)

    def recipients(self, kind: str, name: str) -> Collection[SocketClient]:
        """Whom a target means: `sid` and a sid, `topic` and a topic, or `all`."""
        if kind == "all":
            return self.clients.values()
        if kind == "topic":
            return self.subscribers.get(name, {}).values()
        peer = self.clients.get(name)
        return () if peer is None else (peer,)

    def fan_out(self, kind: str, name: str, publication: Publication) -> int:
        """Hand one event to everyone it is for; to how many. No peer waits for another."""
        audience = self.recipients(kind, name)
        number, frame = publication.offset, publication.frame
        if publication.ack_channel or publication.conflation_key:
            for peer in audience:
                peer.deliver_or_buffer(publication)
        else:
            for peer in audience:
                if peer.replay_buffer is not None:
                    peer.deliver_or_buffer(publication)
                elif number > peer.position:
                    peer.position = number
                    peer.sink.send_now(frame)
        return len(audience)
