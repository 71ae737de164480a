"""From Redis to the sockets of this replica: hears its channels, and catches up after every fault.

It knows the hub, the directory and the histories, and no transport. What it promises: a socket gets every event for it in
the order of the sequence, or a `socket.resync`.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from services.common import events, metrics
from services.common.errors import Unavailable
from services.common.redis import Redis
from services.common.subscription import Subscription
from services.common.tasks import end
from services.socket.attendance import Attendance
from services.socket.directory import Directory
from services.socket.frames import text_frame
from services.socket.history import Entry, History, Target
from services.socket.hub import Hub, Message, Peer
from services.socket.scripts import AWAY_SECONDS

BEAT_SECONDS = 1.0

_log = logging.getLogger("gridcast.delivery")


class Delivery:
    """One for each replica. `epoch` is empty until Redis has been reached; `lives` counts how often that was."""

    def __init__(self, redis: Redis, hub: Hub, directory: Directory, history: History, attendance: Attendance) -> None:
        self._hub = hub
        self._directory = directory
        self._history = history
        self._attendance = attendance
        self.channel = f"gridcast:node:{directory.node}"
        self._subscription = Subscription(
            redis, ["gridcast:all", self.channel], self._heard, heard="events", on_live=self._on_live
        )
        self._followed: dict[str, asyncio.Future[None]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()
        self._seen = 0
        self._found = 0
        self._heard_at = 0
        self.epoch = ""
        self.lives = 0
        self.on_ack: Callable[[str, str], None] = lambda _sid, _id: None

    @property
    def live(self) -> bool:
        """Whether events arrive. While it is False, new sockets and subscriptions are refused."""
        return self._subscription.live

    def start(self) -> None:
        """Begin to hear and to beat."""
        self._subscription.start()
        self._beating = asyncio.create_task(self._beat_for_ever())

    async def aclose(self) -> None:
        """Hear no more."""
        await end(self._beating, self._looking)
        await self._subscription.aclose()

    async def follow(self, topic: str) -> None:
        """Return once this replica hears `topic`. It does so while the hub knows someone who wants it."""
        waiting = self._followed.get(topic)
        if waiting is None:
            waiting = asyncio.ensure_future(self._subscription.subscribe(f"gridcast:topic:{topic}"))
            self._followed[topic] = waiting
            waiting.add_done_callback(lambda done: self._forget_failed(topic, done))
        await asyncio.shield(waiting)

    def _forget_failed(self, topic: str, done: asyncio.Future[None]) -> None:
        if (done.cancelled() or done.exception() is not None) and self._followed.get(topic) is done:
            del self._followed[topic]

    # What Redis says.

    def _heard(self, _channel: bytes, payload: bytes) -> None:
        try:
            if payload.startswith(b"{"):
                self._heed(json.loads(payload))
                return
            head, _, event = payload.partition(b"\n")
            sequence, kind, name, key, reply = head.decode().split("\t")
            position = events.Position.of(sequence)
            if position.epoch != self.epoch:
                self._look_again()
                return
            message = self._message(position.number, event, key, reply)
        except (ValueError, RecursionError):
            _log.warning("not a message of ours on a channel of ours: %r", payload[:80])
            return
        metrics.FRAMES_SENT.inc(self._hub.deliver(kind, name, message))
        self._seen = max(self._seen, message.number)

    def _message(self, number: int, event: bytes, key: str, reply: str) -> Message:
        """ValueError where the event is none: every text frame is JSON, whatever someone has put into Redis."""
        decoded = events.decode(event.decode())
        frame = text_frame(events.sequenced(event, f"{self.epoch}-{number}".encode()))
        return Message(number, frame, key, reply, decoded.id)

    def _heed(self, said: dict[str, Any]) -> None:
        sid, event_id = said.get("sid"), said.get("id", "")
        if not isinstance(sid, str) or not isinstance(event_id, str):
            raise ValueError("not a message of ours")  # noqa: TRY004  # one kind of fault for all that others may publish
        peer = self._hub.find(sid)
        match said.get("type"):
            case "ack":
                self.on_ack(sid, event_id)
            case "close" if peer is not None:
                self._attendance.expel(peer)
            case "moved" if peer is not None and peer.secret != said.get("secret"):
                self._attendance.move(peer)

    # Faults.

    async def _on_live(self, server: str) -> None:
        known = self.epoch
        place, clock = await self._directory.adopt(server)
        # One moment: who is ready now is caught up below, who is not finds other `lives` at the end of his replay and looks again.
        self.lives += 1
        self.epoch, number = place.epoch, place.number
        self._found = number
        there = self._hub.ready()
        why = ""
        if known and known != self.epoch:
            why = "Redis has begun anew"
        elif known and clock - self._heard_at > AWAY_SECONDS:
            # By Redis's clock, by which events expire, and since something was last heard for certain: a replica that was frozen
            # has noticed no loss.
            why = "Redis was away for longer than events are kept"
        try:
            if why:
                self._begin_anew(there, number)
            await self._attendance.keep(there)
            if known and not why:
                await self._catch_up(there, number)
        except Unavailable:
            self.epoch = known
            raise
        # Only now, when it can be pushed to again, is a client told to look at what it has.
        for peer in there if why else ():
            self.resync(peer, why)
        self._seen = number if why else max(number, self._seen)
        self._heard_at = clock

    def _begin_anew(self, peers: Sequence[Peer], number: int) -> None:
        """Nothing before `number` can be known: these peers count from there."""
        for peer in peers:
            peer.position = number
            peer.topics.update(dict.fromkeys(peer.topics, number))
            peer.tell(f"{self.epoch}-{number}")

    async def _catch_up(self, there: Sequence[Peer], number: int) -> None:
        """Hand over what was missed, to those who were ready when it was asked for. Who becomes ready meanwhile has looked for
        himself, and an entry from here may be newer than what he is still to hear.
        """
        seen = self._seen
        if number == seen:
            return
        targets = [Target("all", "", seen)]
        targets += [Target("topic", topic, seen) for topic in self._hub.topics]
        targets += [Target("sid", peer.sid, seen) for peer in there]
        missed = await self._history.after(self.epoch, targets)
        meant = set(there)
        for target in missed.lost:
            for peer in self._hub.audience(target.kind, target.name):
                if peer in meant:
                    self.resync(peer, "some events are lost")
        for entry in missed.entries:
            with suppress(ValueError):
                message = self.replayed(entry)
                for peer in self._hub.audience(entry.kind, entry.name):
                    if peer in meant:
                        peer.take(message)

    def replayed(self, entry: Entry) -> Message:
        """A history's entry as it is delivered. ValueError where it is no event."""
        return self._message(entry.number, entry.event, "", entry.reply)

    def resync(self, peer: Peer, reason: str) -> None:
        """Tell a client that something may have been missed before this replica found Redis again."""
        peer.tell(f"{self.epoch}-{self._found}")
        event = events.Event(
            id=str(uuid4()),
            source="/socket",
            type="socket.resync",
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data={"reason": reason},
        )
        sequence = f"{self.epoch}-{peer.position}".encode()
        peer.sink.write(text_frame(events.sequenced(events.encode(event).encode(), sequence)))

    # The beat.

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self.live:
                await self._try_beat()

    def _look_again(self) -> None:
        """Redis seems to have been emptied under us: do not wait for the next beat to find out."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._try_beat())

    async def _try_beat(self) -> None:
        try:
            async with self._one:
                await self._beat()
        except Unavailable as error:
            _log.info("a beat was missed: %s", error.detail)
        except Exception:  # noqa: BLE001  # the next one comes all the same
            _log.exception("a fault in a beat")

    async def _beat(self) -> None:
        place, clock, known = await self._directory.beat()
        if place.epoch != self.epoch:
            await self._subscription.renew()
            return
        # What was published before the number was read has been heard once the flush returns.
        await self._subscription.flush()
        if place.epoch == self.epoch:
            self._seen = max(self._seen, place.number)
            self._heard_at = clock
        await self._attendance.round(everyone=not known)
        for topic, waiting in list(self._followed.items()):
            # Looked at one by one: a topic may be joined again while another is given up.
            if topic not in self._hub.topics and waiting.done() and self._followed.get(topic) is waiting:
                del self._followed[topic]
                await self._subscription.unsubscribe(f"gridcast:topic:{topic}")
