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

from gridcast._bus import events
from gridcast._bus.keys import ALL_CHANNEL, node_channel, topic_channel
from gridcast._bus.wakeup import Wakeup
from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.errors import ServiceUnavailable
from services.common.telemetry import metrics
from services.socket.connection import encode_text_frame
from services.socket.history import History, HistoryEntry, HistoryQuery
from services.socket.hub import Hub, Publication, SocketClient
from services.socket.presence import PresenceManager
from services.socket.sessions import RESUME_WINDOW_SECONDS, SessionStore

HEARTBEAT_SECONDS = 1.0

_log = logging.getLogger("gridcast.broker")


class RedisBroker:
    """One for each replica. `epoch` is empty until Redis has been reached; `lives` counts how often that was."""

    def __init__(
        self, redis: RedisClient, hub: Hub, sessions: SessionStore, history: History, presence: PresenceManager
    ) -> None:
        self._hub = hub
        self._sessions = sessions
        self._history = history
        self._presence = presence
        self.node_channel = node_channel(sessions.node)
        self._subscription = Subscription(
            redis,
            [ALL_CHANNEL, self.node_channel],
            self._on_message,
            name="events",
            on_subscribed=self._on_subscription_live,
        )
        self._topic_subscriptions: dict[str, asyncio.Future[None]] = {}
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._extra_heartbeat_task: asyncio.Task[None] | None = None
        self._heartbeat_lock = asyncio.Lock()
        self._processed_offset = 0
        self._reconnect_offset = 0
        self._last_contact_at = 0
        self.epoch = ""
        self.generation = 0
        self.on_ack: Callable[[str, str], None] = lambda _sid, _id: None

    @property
    def live(self) -> bool:
        """Whether events arrive. While it is False, new sockets and subscriptions are refused."""
        return self._subscription.subscribed

    def start(self) -> None:
        """Begin to hear and to beat."""
        self._subscription.start()
        self._heartbeat_task = asyncio.create_task(self._heartbeat_loop())

    async def aclose(self) -> None:
        """Hear no more."""
        await cancel_and_wait(self._heartbeat_task, self._extra_heartbeat_task)
        await self._subscription.aclose()

    async def subscribe_topic(self, topic: str) -> None:
        """Return once this replica hears `topic`. It does so while the hub knows someone who wants it."""
        waiting = self._topic_subscriptions.get(topic)
        if waiting is None:
            waiting = asyncio.ensure_future(self._subscription.subscribe(topic_channel(topic)))
            self._topic_subscriptions[topic] = waiting
            waiting.add_done_callback(lambda done: self._discard_failed_subscription(topic, done))
        await asyncio.shield(waiting)

    def _discard_failed_subscription(self, topic: str, done: asyncio.Future[None]) -> None:
        if (done.cancelled() or done.exception() is not None) and self._topic_subscriptions.get(topic) is done:
            del self._topic_subscriptions[topic]

    # What Redis says.

    def _on_message(self, _channel: bytes, payload: bytes) -> None:
        try:
            if payload.startswith(b"{"):
                self._on_control(json.loads(payload))
                return
            wakeup = Wakeup.parse(payload)
            if wakeup.position.epoch != self.epoch:
                self._heartbeat_now()
                return
            message = self._build_publication(
                wakeup.position.offset, wakeup.event, wakeup.conflation_key, wakeup.ack_channel
            )
        except (ValueError, RecursionError):
            _log.warning("malformed message on a Redis channel: %r", payload[:80])
            return
        metrics.WEBSOCKET_FRAMES_SENT.inc(self._hub.fan_out(wakeup.kind, wakeup.name, message))
        self._processed_offset = max(self._processed_offset, message.offset)

    def _build_publication(self, offset: int, event: bytes, conflation_key: str, ack_channel: str) -> Publication:
        """ValueError where the event is none: every text frame is JSON, whatever someone has put into Redis."""
        decoded = events.decode_event(event.decode())
        frame = encode_text_frame(events.with_sequence(event, f"{self.epoch}-{offset}".encode()))
        return Publication(offset, frame, conflation_key, ack_channel, decoded.id)

    def _on_control(self, control: dict[str, Any]) -> None:
        sid, event_id = control.get("sid"), control.get("id", "")
        if not isinstance(sid, str) or not isinstance(event_id, str):
            raise ValueError("malformed message")  # noqa: TRY004  # one kind of fault for all that others may publish
        peer = self._hub.find(sid)
        match control.get("type"):
            case "ack":
                self.on_ack(sid, event_id)
            case "close" if peer is not None:
                self._presence.kick(peer)
            case "moved" if peer is not None and peer.secret_hash != control.get("secret"):
                self._presence.close_superseded(peer)

    # Faults.

    async def _on_subscription_live(self, run_id: str) -> None:
        known = self.epoch
        place, clock = await self._sessions.register_node(run_id)
        # One moment: who is ready now is caught up below, who is not finds other `lives` at the end of his replay and looks again.
        self.generation += 1
        self.epoch, number = place.epoch, place.offset
        self._reconnect_offset = number
        there = self._hub.ready_clients()
        why = ""
        if known and known != self.epoch:
            why = "Redis has lost its data"
        elif known and clock - self._last_contact_at > RESUME_WINDOW_SECONDS:
            # By Redis's clock, by which events expire, and since something was last heard for certain: a replica that was frozen
            # has noticed no loss.
            why = "Redis was unreachable for longer than the history is kept"
        try:
            if why:
                self._reset_positions(there, number)
            await self._presence.refresh(there)
            if known and not why:
                await self._recover_clients(there, number)
        except ServiceUnavailable:
            self.epoch = known
            raise
        # Only now, when it can be pushed to again, is a client told to look at what it has.
        for peer in there if why else ():
            self.send_resync(peer, why)
        self._processed_offset = number if why else max(number, self._processed_offset)
        self._last_contact_at = clock

    def _reset_positions(self, clients: Sequence[SocketClient], offset: int) -> None:
        """Nothing before `number` can be known: these peers count from there."""
        for peer in clients:
            peer.position = offset
            peer.topics.update(dict.fromkeys(peer.topics, offset))
            peer.record_gap(f"{self.epoch}-{offset}")

    async def _recover_clients(self, clients: Sequence[SocketClient], offset: int) -> None:
        """Hand over what was missed, to those who were ready when it was asked for. Who becomes ready meanwhile has looked for
        himself, and an entry from here may be newer than what he is still to hear.
        """
        seen = self._processed_offset
        if offset == seen:
            return
        targets = [HistoryQuery("all", "", seen)]
        targets += [HistoryQuery("topic", topic, seen) for topic in self._hub.subscribers]
        targets += [HistoryQuery("sid", peer.sid, seen) for peer in clients]
        missed = await self._history.read_after(self.epoch, targets)
        meant = set(clients)
        for target in missed.incomplete:
            for peer in self._hub.recipients(target.kind, target.name):
                if peer in meant:
                    self.send_resync(peer, "events were lost")
        for entry in missed.entries:
            with suppress(ValueError):
                message = self.publication_from_history(entry)
                for peer in self._hub.recipients(entry.kind, entry.name):
                    if peer in meant:
                        peer.deliver_or_buffer(message)

    def publication_from_history(self, entry: HistoryEntry) -> Publication:
        """A history's entry as it is delivered. ValueError where it is no event."""
        return self._build_publication(entry.offset, entry.event, "", entry.ack_channel)

    def send_resync(self, client: SocketClient, reason: str) -> None:
        """Tell a client that something may have been missed before this replica found Redis again."""
        client.record_gap(f"{self.epoch}-{self._reconnect_offset}")
        event = events.CloudEvent(
            id=str(uuid4()),
            source="/socket",
            type="socket.resync",
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data={"reason": reason},
        )
        sequence = f"{self.epoch}-{client.position}".encode()
        client.sink.write(encode_text_frame(events.with_sequence(events.encode_event(event).encode(), sequence)))

    # The beat.

    async def _heartbeat_loop(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.live:
                await self._try_heartbeat()

    def _heartbeat_now(self) -> None:
        """Redis seems to have been emptied under us: do not wait for the next beat to find out."""
        if self._extra_heartbeat_task is None or self._extra_heartbeat_task.done():
            self._extra_heartbeat_task = asyncio.create_task(self._try_heartbeat())

    async def _try_heartbeat(self) -> None:
        try:
            async with self._heartbeat_lock:
                await self._heartbeat()
        except ServiceUnavailable as error:
            _log.info("heartbeat missed: %s", error.detail)
        except Exception:  # noqa: BLE001  # the next one comes all the same
            _log.exception("unhandled exception in the heartbeat")

    async def _heartbeat(self) -> None:
        place, clock, known = await self._sessions.heartbeat()
        if place.epoch != self.epoch:
            await self._subscription.reconnect()
            return
        # What was published before the number was read has been heard once the flush returns.
        await self._subscription.barrier()
        if place.epoch == self.epoch:
            self._processed_offset = max(self._processed_offset, place.offset)
            self._last_contact_at = clock
        await self._presence.tick(refresh_all=not known)
        for topic, waiting in list(self._topic_subscriptions.items()):
            # Looked at one by one: a topic may be joined again while another is given up.
            if (
                topic not in self._hub.subscribers
                and waiting.done()
                and self._topic_subscriptions.get(topic) is waiting
            ):
                del self._topic_subscriptions[topic]
                await self._subscription.unsubscribe(topic_channel(topic))
