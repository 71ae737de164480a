"""A WebSocket from its first frame to its end: replay, commands, farewell. It writes through peers and asks the directory;
it knows no key of Redis.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence

from services.common import metrics
from services.common.errors import BadRequest, GridcastError, Internal, Unavailable
from services.common.web import Message, Receive, Scope, Send, send_problem
from services.socket import commands, handshake
from services.socket.attendance import Attendance
from services.socket.buckets import Bucket
from services.socket.delivery import Delivery
from services.socket.directory import Directory
from services.socket.entrance import Entrance, Entry
from services.socket.frames import Connection, text_frame
from services.socket.history import Entry as Replayed
from services.socket.hub import Hub, Peer
from services.socket.settings import SocketSettings

PONG = text_frame(b'{"pong":true}')
DRAIN_SHARE = 0.8
"""Of the drain time; the rest is for the farewells themselves."""
DRAIN_STEP_SECONDS = 0.05

_log = logging.getLogger("gridcast.socket")


class Sockets:
    """The WebSocket side of the service, as an ASGI application."""

    def __init__(
        self,
        settings: SocketSettings,
        hub: Hub,
        directory: Directory,
        delivery: Delivery,
        attendance: Attendance,
        entrance: Entrance,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._directory = directory
        self._delivery = delivery
        self._attendance = attendance
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for scopes of type `websocket`."""
        connection: Connection = scope["extensions"]["gridcast"]
        await receive()
        try:
            entry = await self._enter(scope, connection)
        except GridcastError as error:
            metrics.REFUSED.labels(str(error.status)).inc()
            await _refuse(send, error)
            return
        except Exception:  # noqa: BLE001  # whatever it is, the client gets an answer and the log the rest
            _log.exception("unexpected fault")
            await _refuse(send, Internal())
            return
        metrics.SOCKETS.inc()
        began = time.monotonic()
        code = 1006
        try:
            offered = handshake.SUBPROTOCOL in scope["subprotocols"]
            connection.accept(handshake.SUBPROTOCOL if offered else None, _first_frame(entry))
            await self._begin(entry, connection)
            code = await self._converse(entry.peer, connection, receive)
        except Unavailable:
            code = 1012
            connection.close(code, "try again")
        except Exception:  # noqa: BLE001  # as above
            _log.exception("unexpected fault")
            code = 1011
            connection.close(code, "the server failed")
        finally:
            self._entrance.leave(entry.peer)
            metrics.SOCKETS.dec()
            if connection.closed_with:
                metrics.SOCKETS_CLOSED.labels(str(connection.closed_with)).inc()
            fields = {"sid": entry.peer.sid, "code": code, "seconds": round(time.monotonic() - began, 3)}
            _log.info("socket closed", extra={"fields": fields})

    async def _enter(self, scope: Scope, connection: Connection) -> Entry:
        entry = await self._entrance.enter(scope, connection.query, connection)
        if connection.dismissed:
            self._entrance.leave(entry.peer)
            raise Unavailable("this socket was closed while it entered", retry_after=1)
        return entry

    async def _begin(self, entry: Entry, connection: Connection) -> None:
        """What was missed, at the client's pace, then what came meanwhile."""
        peer, lives = entry.peer, entry.lives
        await self._replay(peer, connection, entry.missed)
        # Redis came back while this socket was entering: those that were there have been caught up, this one was not.
        while lives != self._delivery.lives:
            lives = self._delivery.lives
            if self._delivery.epoch != entry.epoch:
                raise Unavailable("Redis has begun anew")
            missed = await self._entrance.missed(peer)
            if missed.lost:
                self._delivery.resync(peer, "some events are lost")
            await self._replay(peer, connection, missed.entries)
        peer.release()
        connection.on_ping = lambda: self._pinged(peer)
        connection.on_pong = lambda: self._ponged(peer)
        if not peer.confirmed:
            connection.ping_now()

    async def _replay(self, peer: Peer, connection: Connection, entries: Sequence[Replayed]) -> None:
        for entry in entries:
            try:
                message = self._delivery.replayed(entry)
            except ValueError:
                continue
            await connection.drained()
            peer.replay(message)

    def _pinged(self, peer: Peer) -> None:
        peer.pinged = f"{self._delivery.epoch}-{peer.position}"

    def _ponged(self, peer: Peer) -> None:
        peer.proved = peer.pinged or peer.proved
        if not peer.confirmed:
            self._attendance.confirm(peer)

    # What the client says.

    async def _converse(self, peer: Peer, connection: Connection, receive: Receive) -> int:
        """Answer until the end. The code with which it came."""
        rate = self._settings.message_rate
        clock = asyncio.get_running_loop().time
        allowance = Bucket(rate, 2 * rate, clock())
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or 1005)
            if not allowance.take(clock()):
                connection.close(1008, "too many messages")
                continue
            command = commands.parse(message.get("text"))
            if isinstance(command, commands.Ping):
                connection.write(PONG)
                continue
            try:
                await self._follow(peer, connection, command)
            except GridcastError as error:
                connection.write(_said({"type": "error", "detail": error.detail}))

    async def _follow(self, peer: Peer, connection: Connection, command: commands.Command) -> None:
        match command:
            case commands.Subscribe(topic):
                since = await self._subscribe(peer, topic)
                connection.write(_said({"type": "subscribed", "topic": topic, "since": since}))
            case commands.Unsubscribe(topic):
                self._hub.part(peer, topic)
                await self._directory.topic(peer.sid, peer.secret, topic, join=False)
                connection.write(_said({"type": "unsubscribed", "topic": topic}))
            case commands.Ack(identifier):
                channel = peer.awaited.get(identifier)
                if channel is not None:
                    await self._directory.acked(channel, peer.sid, identifier)
                    peer.awaited.pop(identifier, None)
            case commands.Wrong(detail):
                raise BadRequest(detail)

    async def _subscribe(self, peer: Peer, topic: str) -> str:
        """In the hub first, so that nothing is missed between Redis's confirmation and the place that is told.

        That place is no `sequence`: earlier events for this socket may still be on their way.
        """
        known = peer.topics.get(topic)
        if known is not None:
            return f"{self._delivery.epoch}-{known}"
        if len(peer.topics) >= self._settings.max_topics:
            raise BadRequest(f"a socket hears at most {self._settings.max_topics} topics")
        self._hub.join(peer, topic, peer.position)
        try:
            await self._delivery.follow(topic)
            epoch, number = await self._directory.topic(peer.sid, peer.secret, topic, join=True)
            if epoch != self._delivery.epoch:
                raise Unavailable("Redis has begun anew")
        except GridcastError:
            self._hub.part(peer, topic)
            raise
        peer.topics[topic] = number
        return f"{epoch}-{number}"

    # Farewell.

    async def drain(self, seconds: float) -> None:
        """Say 1012 to every socket, a few at a time, so that the other replicas are not stormed; who is entering is refused."""
        deadline = time.monotonic() + seconds
        self._entrance.closed = True
        peers = list(self._hub.peers.values())
        steps = max(1, int(DRAIN_SHARE * seconds / DRAIN_STEP_SECONDS))
        step = max(5, -(-len(peers) // steps))
        for start in range(0, len(peers), step):
            for peer in peers[start : start + step]:
                peer.sink.close(1012, "the service restarts")
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        while self._entrance.entering and time.monotonic() < deadline:  # noqa: ASYNC110  # they wait for Redis
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        for peer in self._hub.peers.values():
            peer.sink.close(1012, "the service restarts")


def _first_frame(entry: Entry) -> bytes:
    return _said(
        {
            "sid": entry.peer.sid,
            "resume": f"{entry.peer.sid}.{entry.secret}",
            "sequence": f"{entry.epoch}-{entry.peer.position}",
            "recovered": entry.recovered,
        }
    )


def _said(members: dict[str, object]) -> bytes:
    return text_frame(
        json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    )


async def _refuse(send: Send, error: GridcastError) -> None:
    """Answer the handshake as an HTTP request (the `websocket.http.response` extension of ASGI)."""

    async def as_handshake(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_problem(as_handshake, error)
