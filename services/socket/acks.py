"""Publishes events to one client, and waits for its ack where the sender asks for one."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from gridcast.publish import PublishResult
from services.common.bus.publisher import EventPublisher


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """The result of a send. `status` is `delivered` once the client has acknowledged the event, otherwise the publish status."""

    status: Literal["delivered", "sent", "queued", "dropped", "unknown"]
    result: PublishResult


class AckWaiter:
    """Pending acks of this replica's senders. Replicas that receive an ack publish it on `ack_channel`."""

    def __init__(self, publisher: EventPublisher, ack_channel: str) -> None:
        self._publisher = publisher
        self._ack_channel = ack_channel
        self._waiters: dict[tuple[str, str], list[asyncio.Future[None]]] = {}

    def on_ack(self, sid: str, event_id: str) -> None:
        """Complete the senders that wait for a client's ack of this event."""
        for waiter in self._waiters.get((sid, event_id), ()):
            if not waiter.done():
                waiter.set_result(None)

    async def send_and_wait(
        self, sid: str, event_type: str, data: Any, event_id: str, timeout_seconds: float
    ) -> SendOutcome:
        """Publish to one client and wait up to `timeout_seconds` for its ack; 0 does not wait."""
        if not timeout_seconds:
            result = await self._publisher.send(sid, event_type, data, id=event_id)
            return SendOutcome(result.status, result)
        key = (sid, event_id)
        acked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A sender that repeats a push may wait at the same time as its first attempt.
        self._waiters.setdefault(key, []).append(acked)
        try:
            result = await self._publisher.send(sid, event_type, data, id=event_id, ack_channel=self._ack_channel)
            if result.status == "unknown":
                return SendOutcome("unknown", result)
            async with asyncio.timeout(timeout_seconds):
                await acked
            return SendOutcome("delivered", result)
        except TimeoutError:
            return SendOutcome(result.status, result)
        finally:
            self._waiters[key].remove(acked)
            if not self._waiters[key]:
                del self._waiters[key]
