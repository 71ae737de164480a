"""Delivers events from Redis to the clients of this replica: subscribes to its channels, and recovers after every fault of Redis.

A client receives every event for it in the order of the sequence, or a `socket.resync`.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from gridcast._bus import events
from gridcast._bus.keys import ALL_CHANNEL, node_channel, topic_channel
from gridcast._bus.wakeup import Wakeup
from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.errors import WritesRefused
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.errors import ServiceUnavailable
from services.common.telemetry import metrics
from services.socket.connection import encode_text_frame
from services.socket.history import History, HistoryEntry, HistoryQuery
from services.socket.hub import Hub, Publication, SocketClient
from services.socket.presence import PresenceManager
from services.socket.sessions import NODE_TTL_SECONDS, RECORD_TTL_SECONDS, RESUME_WINDOW_SECONDS, SessionStore

HEARTBEAT_SECONDS = 1.0
"""Seconds between heartbeats."""

_log = logging.getLogger("gridcast.broker")


class RedisBroker:
    """One for each replica. `epoch` is empty before the first contact with Redis; `generation` counts the subscriptions since then.

    `on_ack(sid, event_id)` is called for each ack that another replica publishes for a sender of this one; `on_query` and
    `on_answer` get the messages of ReplicaQueries. `filters_folders`: clients have rights, so events about files are for some
    of them only. `refusal` says why Redis refuses writes, and is empty while it takes them.
    """

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
        self._subscribed_topics: dict[str, None] = {}
        self._topic_subscriptions: dict[str, asyncio.Future[None]] = {}
        """Those that are not confirmed yet. A finished task would take 700 bytes for each topic: more than all else about it."""
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._extra_heartbeat_task: asyncio.Task[None] | None = None
        self._heartbeat_lock = asyncio.Lock()
        self._processed_offset = 0
        self._reconnect_offset = 0
        self._last_contact_at = 0
        self.epoch = ""
        self.generation = 0
        self.refusal = ""
        self.filters_folders = False
        self._records_incomplete_until = 0.0
        self._refresh_due = False
        self.on_ack: Callable[[str, str], None] = lambda _sid, _id: None
        self.on_query: Callable[[dict[str, Any]], None] = lambda _message: None
        self.on_answer: Callable[[dict[str, Any]], None] = lambda _message: None

    @property
    def live(self) -> bool:
        """Whether events arrive. While this is False, handshakes and subscriptions are refused."""
        return self._subscription.subscribed

    @property
    def records_complete(self) -> bool:
        """Whether every connected sid has a record in Redis.

        False while Redis refuses writes or is out of reach for longer than a replica's key lives, and for the lifetime of a record
        after that.
        """
        return asyncio.get_running_loop().time() >= self._records_incomplete_until

    def start(self) -> None:
        """Start the subscription and the heartbeat."""
        self._subscription.start()
        self._heartbeat_task = asyncio.create_task(self._heartbeat_loop())

    async def aclose(self) -> None:
        """Stop the heartbeat and the subscription."""
        await cancel_and_wait(self._heartbeat_task, self._extra_heartbeat_task)
        await self._subscription.aclose()

    async def subscribe_topic(self, topic: str) -> None:
        """Return once this replica is subscribed to `topic`, which it remains while the hub has a subscriber.

        Raises ServiceUnavailable while Redis is unavailable.
        """
        if topic in self._subscribed_topics:
            return
        subscription = self._topic_subscriptions.get(topic)
        if subscription is None:
            subscription = asyncio.ensure_future(self._subscription.subscribe(topic_channel(topic)))
            self._topic_subscriptions[topic] = subscription
            subscription.add_done_callback(lambda done: self._end_subscription(topic, done))
        await asyncio.shield(subscription)

    def _end_subscription(self, topic: str, done: asyncio.Future[None]) -> None:
        del self._topic_subscriptions[topic]
        if not done.cancelled() and done.exception() is None:
            self._subscribed_topics[topic] = None

    # Messages.

    def _on_message(self, _channel: bytes, payload: bytes) -> None:
        try:
            if payload.startswith(b"{"):
                self._on_control(json.loads(payload))
                return
            wakeup = Wakeup.parse(payload)
        except (ValueError, RecursionError):
            _log.warning("malformed message on a Redis channel: %r", payload[:80])
            return
        if wakeup.position.epoch != self.epoch:
            self._heartbeat_now()
            return
        offset = wakeup.position.offset
        try:
            publication = self._build_publication(
                offset, wakeup.kind, wakeup.event, wakeup.conflation_key, wakeup.ack_channel
            )
        except ValueError as error:
            publication = self._build_gap(offset, error)
        metrics.WEBSOCKET_FRAMES_SENT.inc(self._hub.fan_out(wakeup.kind, wakeup.name, publication))
        self._processed_offset = max(self._processed_offset, offset)

    def _build_publication(
        self, offset: int, kind: str, event: bytes, conflation_key: str, ack_channel: str
    ) -> Publication:
        """Encode the frame of an event. Raises ValueError for anything else, because every text frame must be JSON."""
        decoded = events.decode_published_event(event)
        frame = encode_text_frame(events.with_sequence(event, f"{self.epoch}-{offset}".encode()))
        folder = folder_of_event(decoded) if self.filters_folders and kind != "sid" else None
        return Publication(offset, frame, conflation_key, ack_channel, decoded.id, folder)

    def _build_gap(self, offset: int, error: ValueError) -> Publication:
        """A `socket.resync` in the place of an event that was pushed past the rules, and that no client could read."""
        _log.warning("undeliverable event %s-%d: %s", self.epoch, offset, error)
        return Publication(offset, self._encode_resync("an event could not be delivered", offset))

    def _on_control(self, control: dict[str, Any]) -> None:
        sid, event_id = control.get("sid"), control.get("id", "")
        if not isinstance(sid, str) or not isinstance(event_id, str):
            raise ValueError("malformed message")  # noqa: TRY004  # one error for every malformed payload
        client = self._hub.find(sid)
        match control.get("type"):
            case "ack":
                self.on_ack(sid, event_id)
            case "find":
                self.on_query(control)
            case "found":
                self.on_answer(control)
            case "close" if client is not None:
                self._presence.kick(client)
            case "moved" if client is not None and _is_newer_claim(control, client):
                self._presence.close_superseded(client)

    # Recovery after a fault of Redis.

    async def _on_subscription_live(self, run_id: str) -> None:
        known_epoch = self.epoch
        position, clock = await self._sessions.register_node(run_id, again=bool(known_epoch))
        # No await up to `ready`: a client that is ready now is recovered below, and one that is not finds another generation at the
        # end of its replay and reads its history again.
        self.generation += 1
        self.epoch, offset = position.epoch, position.offset
        self._reconnect_offset = offset
        ready = self._hub.ready_clients()
        if known_epoch and clock - self._last_contact_at > NODE_TTL_SECONDS:
            self._note_incomplete_records()
        loss, first_offset = "", self._processed_offset
        if known_epoch and clock - self._last_contact_at > RESUME_WINDOW_SECONDS:
            # By Redis's clock, which expires histories, and since the last confirmed contact: a replica that was frozen has noticed
            # no loss.
            loss, first_offset = "Redis was unreachable for longer than the history is kept", offset
        if known_epoch and known_epoch != self.epoch:
            # The histories of the new epoch begin with it. They are whole, unless the contact was lost for long.
            loss, first_offset = "Redis has lost its data", offset if loss else 0
        try:
            if loss:
                self._reset_positions(ready, first_offset)
            try:
                await self._presence.refresh(ready)
            except WritesRefused as error:
                # Pushes are refused as well, so nothing new can be missed; what was pushed before can be read.
                if not known_epoch or loss:
                    raise
                self._note_refusal(error.detail)
        except ServiceUnavailable:
            self.epoch = known_epoch
            raise
        # Only now can events be pushed to the clients again, so only now are they told to read their state.
        for client in ready if loss else ():
            self.send_resync(client, loss, first_offset)
        # If the recovery fails, the next subscription goes on with it: the clients have been told of the loss.
        self._processed_offset = first_offset
        if known_epoch:
            await self._recover_clients(ready, offset)
        self._processed_offset = max(offset, self._processed_offset)
        self._last_contact_at = clock

    def _reset_positions(self, clients: Sequence[SocketClient], offset: int) -> None:
        """Set the position of these clients to `offset`: what came before cannot be known."""
        for client in clients:
            client.position = offset
            client.topics.update(dict.fromkeys(client.topics, offset))
            client.record_gap(f"{self.epoch}-{offset}")

    async def _recover_clients(self, clients: Sequence[SocketClient], offset: int) -> None:
        """Deliver missed events to `clients`, those that were ready before their histories were read.

        A client that becomes ready meanwhile has read its own history, and an event from here may be newer than one that it has yet
        to receive.
        """
        processed = self._processed_offset
        if offset == processed:
            return
        queries = [HistoryQuery("all", "", processed)]
        queries += [HistoryQuery("topic", topic, processed) for topic in self._hub.subscribers]
        queries += [HistoryQuery("sid", client.sid, processed) for client in clients]
        ready = set(clients)
        async for page in self._history.read_pages(self.epoch, queries):
            for query in page.incomplete:
                for client in self._hub.recipients(query.kind, query.name):
                    if client in ready:
                        self.send_resync(client, "events were lost")
            for entry in page.entries:
                publication = self.publication_from_history(entry)
                for client in self._hub.recipients(entry.kind, entry.name):
                    if client in ready:
                        client.deliver_or_buffer(publication)

    def publication_from_history(self, entry: HistoryEntry) -> Publication:
        """The publication of a history's entry: a `socket.resync` if the entry is not an event."""
        try:
            return self._build_publication(entry.offset, entry.kind, entry.event, "", entry.ack_channel)
        except ValueError as error:
            return self._build_gap(entry.offset, error)

    def send_resync(self, client: SocketClient, reason: str, end_offset: int | None = None) -> None:
        """Send `socket.resync`: events up to `end_offset`, by default that of the reconnection to Redis, may have been missed."""
        client.record_gap(f"{self.epoch}-{self._reconnect_offset if end_offset is None else end_offset}")
        client.sink.write(self._encode_resync(reason, client.position))

    def send_expiring(self, client: SocketClient, expires: str) -> None:
        """Send `socket.expiring`: the token of the connection ends at that time."""
        client.sink.write(self._encode_own_event("socket.expiring", {"expires": expires}, client.position))

    def _encode_resync(self, reason: str, offset: int) -> bytes:
        return self._encode_own_event("socket.resync", {"reason": reason}, offset)

    def _encode_own_event(self, event_type: str, data: dict[str, str], offset: int) -> bytes:
        event = events.CloudEvent(
            id=str(uuid4()),
            source="/socket",
            type=event_type,
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            data=data,
        )
        encoded = events.encode_event(event).encode()
        return encode_text_frame(events.with_sequence(encoded, f"{self.epoch}-{offset}".encode()))

    # Heartbeat.

    async def _heartbeat_loop(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.live:
                await self._try_heartbeat()

    def _heartbeat_now(self) -> None:
        """Run a heartbeat ahead of time, because Redis seems to have lost its data."""
        if self._extra_heartbeat_task is None or self._extra_heartbeat_task.done():
            self._extra_heartbeat_task = asyncio.create_task(self._try_heartbeat())

    async def _try_heartbeat(self) -> None:
        try:
            async with self._heartbeat_lock:
                await self._heartbeat()
        except WritesRefused as error:
            self._note_refusal(error.detail)
        except ServiceUnavailable as error:
            _log.info("heartbeat missed: %s", error.detail)
        except Exception:  # noqa: BLE001  # the next heartbeat runs nevertheless
            _log.exception("unhandled exception in the heartbeat")

    def _note_refusal(self, refusal: str) -> None:
        """Take note that Redis refuses writes for a reason, or, with an empty string, that it takes them."""
        if refusal:
            self._note_incomplete_records()
        if refusal != self.refusal:
            _log.warning("%s", refusal or "Redis takes writes again")
        self.refusal = refusal

    def _note_incomplete_records(self) -> None:
        self._records_incomplete_until = asyncio.get_running_loop().time() + RECORD_TTL_SECONDS
        self._refresh_due = True

    async def _heartbeat(self) -> None:
        heartbeat = await self._sessions.heartbeat()
        position = heartbeat.position
        self._note_refusal(heartbeat.refusal)
        if not heartbeat.known:
            self._note_incomplete_records()
        if position.epoch != self.epoch:
            await self._subscription.reconnect()
            return
        # Events up to this position have been dispatched once the barrier returns.
        await self._subscription.barrier()
        if position.epoch == self.epoch:
            self._processed_offset = max(self._processed_offset, position.offset)
            self._last_contact_at = heartbeat.clock
        refresh_all = not heartbeat.known or (self._refresh_due and not self.refusal)
        await self._presence.tick(refresh_all=refresh_all, prune=self.records_complete)
        self._refresh_due = self._refresh_due and not refresh_all
        for topic in list(self._subscribed_topics):
            # Checked one by one: a topic may get a subscriber again while another is unsubscribed.
            if topic not in self._hub.subscribers and topic in self._subscribed_topics:
                del self._subscribed_topics[topic]
                await self._subscription.unsubscribe(topic_channel(topic))


def folder_of_event(event: events.CloudEvent) -> str | None:
    """Return the folder that an event is about, None for one that is not about a file.

    An event about a file whose folder cannot be read is about a folder of no name, which only unlimited rights cover.
    """
    if not event.type.startswith("file."):
        return None
    folder = event.data.get("folder") if isinstance(event.data, dict) else None
    return folder if isinstance(folder, str) else "\0"


def _is_newer_claim(control: dict[str, Any], client: SocketClient) -> bool:
    """Whether a `moved` message names a later acquisition than the client's.

    It may arrive late, when this replica has acquired the session again. A replica of an earlier version sends no claim.
    """
    claim = control.get("claim")
    return claim > client.claim if isinstance(claim, int) else client.secret_hash != control.get("secret")
