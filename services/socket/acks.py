"""Pushes on behalf of HTTP clients, and waits for the ack where one is wanted. It knows the push and no route."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from gridcast.publish import PublishResult
from services.common.bus.publisher import EventPublisher


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """A receipt; `delivered` once the client has said that it has handled the event."""

    status: Literal["delivered", "sent", "queued", "dropped", "unknown"]
    receipt: PublishResult


class AckWaiter:
    """Acks that are waited for on this replica. `channel` is where other replicas tell of them."""

    def __init__(self, publisher: EventPublisher, ack_channel: str) -> None:
        self._publisher = publisher
        self._ack_channel = ack_channel
        self._waiters: dict[tuple[str, str], list[asyncio.Future[None]]] = {}

    def on_ack(self, sid: str, event_id: str) -> None:
        """A client has acknowledged an event."""
        for answered in self._waiters.get((sid, event_id), ()):
            if not answered.done():
                answered.set_result(None)

    async def send_and_wait(
        self, sid: str, event_type: str, data: Any, event_id: str, timeout_seconds: float
    ) -> SendOutcome:
        """Push to one socket and wait up to `wait` seconds for its ack."""
        if not timeout_seconds:
            receipt = await self._publisher.send(sid, event_type, data, id=event_id)
            return SendOutcome(receipt.status, receipt)
        place = (sid, event_id)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Who repeats a push may wait beside the one who asked first.
        self._waiters.setdefault(place, []).append(answered)
        try:
            receipt = await self._publisher.send(sid, event_type, data, id=event_id, ack_channel=self._ack_channel)
            if receipt.status == "unknown":
                return SendOutcome("unknown", receipt)
            async with asyncio.timeout(timeout_seconds):
                await answered
            return SendOutcome("delivered", receipt)
        except TimeoutError:
            return SendOutcome(receipt.status, receipt)
        finally:
            self._waiters[place].remove(answered)
            if not self._waiters[place]:
                del self._waiters[place]
