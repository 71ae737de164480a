"""The state of a listener without I/O: where to connect, what a frame means, and what a close frame asks for."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gridcast._flows.remote_path import with_query
from gridcast.errors import InvalidRequest, SessionEnded, UnexpectedResponse
from gridcast.values import EventGap, ReceivedEvent

MAX_BACKOFF_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.5
RATE_LIMIT_DELAY_SECONDS = 5.0
MAX_FRAME_BYTES = 256 * 1024
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._~:/@%+=-]{1,200}")
_FINAL_REASONS = {
    "session resumed elsewhere": "another connection has resumed this session",
    "closed by an operator": "an operator closed this session",
}
_RATE_REASONS = frozenset({"message rate limit exceeded", "too many frames", "message timeout"})
_CLIENT_FAULTS = frozenset({1002, 1007, 1009})


class ListenSession:
    """The session of one listener over all its connections. `random` returns a number in [0, 1)."""

    def __init__(self, topics: Iterable[str], random: Callable[[], float]) -> None:
        self.topics = dict.fromkeys(check_topic(topic) for topic in topics)
        self.sid: str | None = None
        self._resume: str | None = None
        self._after: str | None = None
        self._random = random
        self._failures = 0
        self._is_open = False
        self.renews_tokens = False
        """Whether `socket.expiring` is answered with another token, and not shown."""
        self.needs_token = False
        """Whether the server waits for one."""

    @property
    def was_connected(self) -> bool:
        """Whether there has been a connection: then the session is resumed, however long that takes."""
        return self._resume is not None

    def connect_target(self) -> str:
        """Return path and query of the next handshake."""
        self._is_open = self.needs_token = False
        return with_query("/ws", resume=self._resume, after=self._after, topics=",".join(self.topics) or None)

    def receive(self, text: str | bytes) -> Sequence[ReceivedEvent | EventGap]:
        """Return what a frame tells the caller. Raises UnexpectedResponse where it is not one of a Gridcast."""
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError):
            frame = None
        if not isinstance(frame, dict):
            raise UnexpectedResponse("the server sent a frame that is no JSON object")
        if not self._is_open:
            return self._receive_first(frame)
        if "specversion" not in frame:
            return ()  # a reply to a command
        try:
            event = ReceivedEvent(
                type=str(frame["type"]),
                source=str(frame["source"]),
                id=str(frame["id"]),
                data=frame.get("data"),
                sequence=str(frame["sequence"]),
                topic=frame.get("topic"),
                time=frame.get("time"),
            )
        except KeyError:
            raise UnexpectedResponse("the server sent an event without type, source, id or sequence") from None
        self._after = event.sequence
        if event.type == "socket.expiring" and self.renews_tokens:
            self.needs_token = True
            return ()
        if event.type != "socket.resync":
            return (event,)
        reason = event.data.get("reason") if isinstance(event.data, dict) else None
        return (EventGap(str(reason or "the server lost events")),)

    def _receive_first(self, frame: dict[str, Any]) -> Sequence[EventGap]:
        try:
            sid, resume, sequence = str(frame["sid"]), str(frame["resume"]), str(frame["sequence"])
        except KeyError:
            raise UnexpectedResponse("the first frame has no sid: is there a Gridcast at this URL?") from None
        is_gap = self.was_connected and frame.get("recovered") is not True
        self.sid, self._resume, self._failures, self._is_open = sid, resume, 0, True
        # A recovered session goes on behind the last event that came: the position of the frame is that of the newest one.
        if self._after is None or frame.get("recovered") is not True:
            self._after = sequence
        return (EventGap("the session could not be resumed completely"),) if is_gap else ()

    def record_close(self, code: int | None, reason: str) -> float:
        """Return the seconds to wait before the next connection, after a close frame or a failed attempt (code None).

        Raises:
            SessionEnded: this session is over.
            InvalidRequest: the server refuses what this client sent.

        """
        self._is_open = False
        if reason in _FINAL_REASONS:
            raise SessionEnded(_FINAL_REASONS[reason])
        if code in _CLIENT_FAULTS:
            raise InvalidRequest(f"the server closed the connection with code {code}")
        if code == 1012 and not self._failures:
            self._failures += 1
            return 0.0
        base = RATE_LIMIT_DELAY_SECONDS if reason in _RATE_REASONS else 0.0
        longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return base + self._random() * longest

    def command(self, kind: str, **members: str) -> str:
        """Return the frame of a command: ack, subscribe, unsubscribe, token."""
        if kind == "subscribe":
            self.topics[check_topic(members["topic"])] = None
        elif kind == "unsubscribe":
            self.topics.pop(check_topic(members["topic"]), None)
        return json.dumps({"type": kind, **members})

    def token_command(self, token: str | None) -> str:
        """Return the frame that renews the token of the connection (docs/messages.md, "Commands")."""
        self.needs_token = False
        return self.command("token", token=token or "")


def check_topic(topic: str) -> str:
    """Return a topic. Raises InvalidRequest."""
    if not _TOPIC_NAME.fullmatch(topic):
        raise InvalidRequest("a topic has 1 to 200 ASCII letters, digits and . _ ~ : / @ % + = -")
    return topic
