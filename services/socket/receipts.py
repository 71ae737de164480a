"""Pushes on behalf of HTTP clients, and waits for the ack where one is wanted. It knows the push and no route."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

from services.common.push import Push, Receipt


@dataclass(frozen=True, slots=True)
class Outcome:
    """A receipt; `delivered` once the client has said that it has handled the event."""

    status: Literal["delivered", "sent", "queued", "dropped", "unknown"]
    receipt: Receipt


class Receipts:
    """Acks that are waited for on this replica. `channel` is where other replicas tell of them."""

    def __init__(self, push: Push, channel: str) -> None:
        self._push = push
        self._channel = channel
        self._waiting: dict[tuple[str, str], list[asyncio.Future[None]]] = {}

    def acked(self, sid: str, event_id: str) -> None:
        """A client has acknowledged an event."""
        for answered in self._waiting.get((sid, event_id), ()):
            if not answered.done():
                answered.set_result(None)

    async def send(self, sid: str, event_type: str, data: Any, event_id: str, wait: float) -> Outcome:
        """Push to one socket and wait up to `wait` seconds for its ack."""
        if not wait:
            receipt = await self._push.send(sid, event_type, data, id=event_id)
            return Outcome(receipt.status, receipt)
        place = (sid, event_id)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Who repeats a push may wait beside the one who asked first.
        self._waiting.setdefault(place, []).append(answered)
        try:
            receipt = await self._push.send(sid, event_type, data, id=event_id, reply=self._channel)
            if receipt.status == "unknown":
                return Outcome("unknown", receipt)
            async with asyncio.timeout(wait):
                await answered
            return Outcome("delivered", receipt)
        except TimeoutError:
            return Outcome(receipt.status, receipt)
        finally:
            self._waiting[place].remove(answered)
            if not self._waiting[place]:
                del self._waiting[place]
