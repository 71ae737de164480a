"""The connections of this replica: connect, disconnect, send to one, to a topic, to all, find by sid.

Pure: it writes to a Sink it is given and knows neither Redis nor a transport nor a clock.
"""

from collections.abc import Callable, Collection
from typing import Protocol

MAX_HELD = 256
MAX_HELD_BYTES = 1024 * 1024
"""What may wait for a socket's replay to end, as in the outbox afterwards."""
GAP = "!"
"""Before a noted place: see `Peer.proved`."""
MAX_AWAITED = 256
"""Acks that are still expected of one socket; the oldest is forgotten first."""


class Sink(Protocol):
    """Where a connection's frames go. Nothing here blocks or raises; after `close` frames are dropped.

    `put` does with a whole frame what `write` does without a key: for the one caller that writes to all. Another function may stand
    there at any time, as the state of the connection changes: it is looked up for each frame and never kept.
    """

    put: Callable[[bytes], None]

    def write(self, frame: bytes, key: str = "") -> None:
        """Send a whole frame, or keep it until the client has read; `key` as in Outbox."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye with `code`, and cut the connection if the client does not take that."""


class Message:
    """One event on its way to sockets: its number in the sequence and its frame, built once for all of them."""

    __slots__ = ("frame", "id", "key", "number", "reply")

    def __init__(self, number: int, frame: bytes, key: str = "", reply: str = "", event_id: str = "") -> None:
        self.number = number
        self.frame = frame
        self.key = key
        self.reply = reply
        self.id = event_id


class Peer:
    """One connection. `position` is the number of the last event handed to its sink; lower ones are never handed over.

    `held` is a list while the socket is not ready for live events (its replay runs), and None afterwards. `proved` is the
    place in the sequence up to which the client has certainly read: the one before a ping that it has answered. With GAP in front
    it is the end of a gap that the client was told of, as long as no later ping proves that it has read that.
    `confirmed` is False until a client that resumed has proved that it holds its new secret.
    """

    __slots__ = (
        "_held_bytes",
        "awaited",
        "confirmed",
        "held",
        "meta",
        "pinged",
        "position",
        "proved",
        "secret",
        "sid",
        "since",
        "sink",
        "topics",
    )

    def __init__(self, sid: str, secret: str, sink: Sink, meta: str = "", since: int = 0) -> None:
        self.sid = sid
        self.secret = secret
        self.sink = sink
        self.meta = meta
        self.since = since
        self.topics: dict[str, int] = {}
        self.position = 0
        self.proved = ""
        self.pinged = ""
        self.confirmed = True
        self.held: list[Message] | None = []
        self._held_bytes = 0
        self.awaited: dict[str, str] = {}

    def take(self, message: Message) -> None:
        """Hand an event over, or hold it while the replay runs."""
        if self.held is None:
            self.replay(message)
            return
        self._held_bytes += len(message.frame)
        if len(self.held) < MAX_HELD and self._held_bytes <= MAX_HELD_BYTES:
            self.held.append(message)
        else:
            self.sink.close(1013, "too slow")

    def tell(self, gap: str) -> None:
        """A gap that ends at the place `gap` is told to the client now, which may never read it."""
        self.proved = f"{GAP}{gap}"
        self.pinged = ""

    def replay(self, message: Message) -> None:
        """Hand an event over now, unless it is not newer than the last one."""
        if message.number > self.position:
            self.position = message.number
            if message.reply:
                self._await(message)
            self.sink.write(message.frame, message.key)

    def release(self) -> None:
        """The replay is over: hand over what was held, and from now on everything at once."""
        held, self.held = self.held or [], None
        for message in held:
            self.take(message)

    def _await(self, message: Message) -> None:
        if len(self.awaited) >= MAX_AWAITED:
            del self.awaited[next(iter(self.awaited))]
        self.awaited[message.id] = message.reply


class Hub:
    """All peers of this replica. A broadcast costs one pass over them and builds nothing."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.topics: dict[str, dict[str, Peer]] = {}

    def connect(self, peer: Peer) -> Peer | None:
        """Add a peer. The one that had its sid before, if any, is out of the hub and to be closed by the caller."""
        before = self.peers.get(peer.sid)
        if before is not None:
            self.disconnect(before)
        self.peers[peer.sid] = peer
        for topic in peer.topics:
            self.topics.setdefault(topic, {})[peer.sid] = peer
        return before

    def disconnect(self, peer: Peer) -> bool:
        """Take a peer out. False where its place has been taken by another."""
        if self.peers.get(peer.sid) is not peer:
            return False
        del self.peers[peer.sid]
        for topic in list(peer.topics):
            self._part(peer, topic)
        return True

    def ready(self) -> list[Peer]:
        """The peers whose replay is over."""
        return [peer for peer in self.peers.values() if peer.held is None]

    def find(self, sid: str) -> Peer | None:
        """The peer with this sid, if it is here."""
        return self.peers.get(sid)

    def join(self, peer: Peer, topic: str, since: int) -> None:
        """Let a peer hear a topic. `since`: the number from which on it must miss nothing."""
        peer.topics[topic] = since
        if self.peers.get(peer.sid) is peer:
            self.topics.setdefault(topic, {})[peer.sid] = peer

    def part(self, peer: Peer, topic: str) -> None:
        """Let a peer hear a topic no more."""
        if peer.topics.pop(topic, None) is not None:
            self._part(peer, topic)

    def _part(self, peer: Peer, topic: str) -> None:
        members = self.topics.get(topic, {})
        if members.get(peer.sid) is peer:
            del members[peer.sid]
        if not members:
            self.topics.pop(topic, None)

    def audience(self, kind: str, name: str) -> Collection[Peer]:
        """Whom a target means: `sid` and a sid, `topic` and a topic, or `all`."""
        if kind == "all":
            return self.peers.values()
        if kind == "topic":
            return self.topics.get(name, {}).values()
        peer = self.peers.get(name)
        return () if peer is None else (peer,)

    def deliver(self, kind: str, name: str, message: Message) -> int:
        """Hand one event to everyone it is for; to how many. No peer waits for another."""
        audience = self.audience(kind, name)
        number, frame = message.number, message.frame
        if message.reply or message.key:
            for peer in audience:
                peer.take(message)
        else:
            for peer in audience:
                if peer.held is not None:
                    peer.take(message)
                elif number > peer.position:
                    peer.position = number
                    peer.sink.put(frame)
        return len(audience)
