"""The store's port for webhooks: events are relayed into deliveries, one for each endpoint; each is claimed and settled.

Nothing is lost between the parts: an event stays in the outbox until its deliveries are stored, and a delivery waits until it is
settled. A process that is killed in between leaves one of both, and the next one continues with the same id and the same bytes.
All times are those of the store's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from services.common.errors import TooManyRequests
from services.common.store.upload_store import OutboxEvent

DeliveryState = Literal["waiting", "done", "dead"]
"""`waiting` for its next try, `done`, or `dead`: no more tries, a dead letter."""

UNSETTLED_TTL_SECONDS = 14 * 86_400
"""A delivery that is not settled is deleted after this: that of an endpoint that is no longer in the settings."""
DONE_TTL_SECONDS = 7 * 86_400
DEAD_TTL_SECONDS = 30 * 86_400
TTL_SECONDS: dict[DeliveryState, int] = {
    "waiting": UNSETTLED_TTL_SECONDS,
    "done": DONE_TTL_SECONDS,
    "dead": DEAD_TTL_SECONDS,
}
MAX_BLOCKED_DELIVERIES = 64
"""Deliveries that one claim finds blocked by an older one of their file, and postpones."""
MAX_REPLAYED = 10_000
"""Deliveries that one call of `replay` sends again."""


class TooManyUnrelayed(TooManyRequests):
    """429: the events of a name wait for their deliveries, and one more is not accepted so that none of them is lost."""

    def __init__(self) -> None:
        super().__init__("too many events of this name wait for their delivery", {"retry-after": "5"})


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to add: `body` are the bytes that are sent and signed at every try."""

    event_id: str
    endpoint_id: str
    media_id: str
    revision: int
    event_type: str
    body: bytes

    @property
    def id(self) -> str:
        """The id by which a delivery is there once."""
        return f"{self.event_id}.{self.endpoint_id}"


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A delivery as it is stored. `body` is empty in lists.

    `failures` counts tries without success. `fencing_token` counts claims: what an older claimer says is void. `status` and
    `error` are those of the last try. `age` in seconds since it was created.
    """

    id: str
    event_id: str
    endpoint_id: str
    media_id: str
    revision: int
    event_type: str
    body: bytes
    state: DeliveryState
    failures: int
    fencing_token: int
    status: int | None
    error: str
    created_at: datetime
    next_at: datetime
    age: float


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """What a try has led to. `delay` in seconds until the next one, where it is `waiting` again."""

    state: DeliveryState
    status: int | None = None
    error: str = ""
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplaySelection:
    """Deliveries to send again: one by its id, or those that are done or dead, of an endpoint and a range of time where given."""

    id: str | None = None
    endpoint_id: str | None = None
    state: Literal["done", "dead"] | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """The deliveries of one endpoint: how many are waiting, the age of the oldest of these in seconds, and how many are dead."""

    endpoint_id: str
    waiting: int
    oldest: float
    dead: int


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """What is stored of an endpoint: `definition`, JSON where the API has made it, else None; `is_ended`: it answered with 410."""

    id: str
    definition: str | None
    is_ended: bool


class EventRelay(Protocol):
    """Moves events out of the outbox into deliveries. Raises ServiceUnavailable."""

    async def relay(self, events: Sequence[OutboxEvent], deliveries: Sequence[NewDelivery]) -> None:
        """Add the deliveries of events of one name, in their order, then note in the outbox that these are relayed.

        Idempotent: a delivery that is there stays as it is. A later event must not be relayed before an earlier one of its name.
        """

    async def list_unrelayed(self, media_id: str) -> Sequence[OutboxEvent]:
        """Return the events of a name that are not relayed yet, in their order."""


class DeliveryStore(EventRelay, Protocol):
    """Keeps deliveries. Raises ServiceUnavailable."""

    async def claim(self, endpoint_id: str, lease_seconds: float, *, ordered: bool) -> WebhookDelivery | None:
        """Claim the delivery of an endpoint that is due first: until the lease has ended it is due for no other claim.

        With `ordered` none is claimed while one of an older revision of the same file is waiting. None where none is due.
        """

    async def settle(self, delivery: WebhookDelivery, outcome: DeliveryOutcome, *, ordered: bool) -> bool:
        """Record what a try has led to; False where the delivery was claimed again, removed or replayed meanwhile.

        With `ordered` the next delivery of the file is due once this one is not waiting.
        """

    async def bury(self, endpoint_id: str, error: str) -> int:
        """Make all waiting deliveries of an endpoint dead; return how many."""

    async def replay(self, selection: ReplaySelection) -> int:
        """Let deliveries wait again, due now, with all tries before them; return how many, MAX_REPLAYED at most."""

    async def list_deliveries(
        self, endpoint_id: str | None, state: DeliveryState | None, limit: int, before: str = ""
    ) -> Sequence[WebhookDelivery]:
        """Return deliveries without their bodies, the newest event first; `before`: only those with smaller ids."""

    async def summarize(self) -> Sequence[QueueSummary]:
        """Return the queues of all endpoints that have waiting or dead deliveries."""

    async def delete_expired(self) -> int:
        """Delete deliveries whose time has passed; return how many."""


class EndpointStore(Protocol):
    """Keeps endpoints that the API has made, and which endpoints have ended. Raises ServiceUnavailable."""

    async def list_endpoints(self) -> Sequence[StoredEndpoint]:
        """Return all that is stored."""

    async def add_endpoint(self, endpoint_id: str, definition: str) -> bool:
        """Store an endpoint; False where one of that id is stored."""

    async def remove_endpoint(self, endpoint_id: str) -> bool:
        """Remove what is stored of an endpoint; False where nothing is."""

    async def set_ended(self, endpoint_id: str, *, ended: bool) -> None:
        """Note that an endpoint wants nothing more, or that it does again."""


class WebhookStore(DeliveryStore, EndpointStore, Protocol):
    """All that webhooks need."""
