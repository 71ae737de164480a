"""A socket of an uploader as a socket replica would register it, for what services send to one sid alone."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Self

import redis as redis_py

CLIENT_SID = "A" * 52


class UploaderSocket:
    """The node of CLIENT_SID: what is sent to that socket alone."""

    def __init__(self, url: str) -> None:
        self.redis = redis_py.Redis.from_url(url, protocol=2)
        self.redis.hset(f"gridcast:sid:{CLIENT_SID}", "node", "ear")
        self.redis.set("gridcast:node:ear", "1")
        self.pubsub = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self.pubsub.subscribe("gridcast:all", "gridcast:node:ear")
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def playable(self) -> list[dict[str, Any]]:
        """The data of all events so far. Each has come by the channel of the node."""
        while (message := self.pubsub.get_message(timeout=0.2)) is not None:
            text: bytes = message["data"]
            self.heard.append((message["channel"].decode(), json.loads(text.partition(b"\n")[2] or text)))
        found = [(channel, event["data"]) for channel, event in self.heard if event["type"] == "file.playable"]
        assert {channel for channel, _ in found} <= {"gridcast:node:ear"}
        return [data for _, data in found]

    @classmethod
    @contextmanager
    def listening(cls, url: str) -> Iterator[Self]:
        """A socket that has heard nothing yet."""
        socket = cls(url)
        with closing(socket.pubsub), closing(socket.redis):
            socket.playable()
            socket.heard.clear()
            yield socket
