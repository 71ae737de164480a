"""Publishes events for a service: the client's Publisher with the services' errors, a metric, and cache invalidations."""

import json
from types import TracebackType
from typing import Any, Self

from gridcast._bus.events import is_valid_sid
from gridcast._bus.keys import INVALIDATION_CHANNEL
from gridcast.errors import SessionsNotReady
from gridcast.publish import Publisher, PublishResult
from services.common.bus.errors import translated_bus_errors
from services.common.bus.redis import RedisClient
from services.common.telemetry import metrics


class EventPublisher:
    """Publishes events of one service. The arguments are those of gridcast.publish.Publisher.

    Methods raise BadRequest for an event that breaks a rule, ContentTooLarge above 64 KiB, and ServiceUnavailable while Redis is
    unavailable.
    """

    def __init__(self, redis: RedisClient, source: str) -> None:
        self.redis = redis
        self._publisher = Publisher(redis.pool, source)

    @classmethod
    def from_url(cls, url: str, source: str) -> Self:
        """A publisher with its own Redis client, which connects on first use. `source` names the service: `/upload`."""
        return cls(RedisClient.from_url(url), source)

    async def send(
        self,
        sid: str,
        type: str,  # noqa: A002  # the attribute's name in CloudEvents, here and below
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
        ack_channel: str = "",
    ) -> PublishResult:
        """Publish to one client."""
        with translated_bus_errors():
            try:
                result = await self._publisher.send(
                    sid, type, data, id=id, conflation_key=conflation_key, ack_channel=ack_channel
                )
            except SessionsNotReady:
                metrics.PUSHES.labels("settling").inc()
                raise
        # A malformed sid does not reach Redis, so it is no push.
        return _counted(result) if is_valid_sid(sid) else result

    async def publish(
        self,
        topic: str,
        type: str,  # noqa: A002
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
    ) -> PublishResult:
        """Publish to every client that is subscribed to `topic`."""
        with translated_bus_errors():
            return _counted(await self._publisher.publish(topic, type, data, id=id, conflation_key=conflation_key))

    async def broadcast(
        self,
        type: str,  # noqa: A002
        data: Any,
        *,
        id: str | None = None,  # noqa: A002
        conflation_key: bool | str = False,
    ) -> PublishResult:
        """Publish to every client."""
        with translated_bus_errors():
            return _counted(await self._publisher.broadcast(type, data, id=id, conflation_key=conflation_key))

    async def publish_invalidation(self, folder: str, filename: str) -> None:
        """Announce a changed file to the stream replicas, which then drop its cached metadata."""
        await self.redis.execute("PUBLISH", INVALIDATION_CHANNEL, json.dumps([folder, filename]))

    async def ping(self) -> None:
        """Return once Redis has responded."""
        await self.redis.ping()

    async def aclose(self) -> None:
        """Close every connection."""
        await self.redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _counted(result: PublishResult) -> PublishResult:
    metrics.PUSHES.labels(result.status).inc()
    return result
