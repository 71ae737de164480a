"""The endpoints of this moment: those of the settings, and those that the API has stored. Read again every few seconds."""

import json
import logging
import time
from collections.abc import Sequence

from services.common.store.delivery_store import EndpointStore
from services.common.webhooks.endpoints import Endpoint, parse_endpoint

REFRESH_SECONDS = 5.0
"""How soon a replica knows of an endpoint that another one has added."""

_log = logging.getLogger("gridcast.webhooks")


class EndpointRegistry:
    """All endpoints, with those that have ended."""

    def __init__(self, store: EndpointStore, from_settings: Sequence[Endpoint]) -> None:
        self._store = store
        self._from_settings = tuple(from_settings)
        self._read_at = float("-inf")
        self.all: tuple[Endpoint, ...] = ()
        self.ended: frozenset[str] = frozenset()

    async def refresh(self) -> None:
        """Read what is stored. Raises ServiceUnavailable, and leaves what was read before."""
        started_at = time.monotonic()
        stored = await self._store.list_endpoints()
        known = {endpoint.id for endpoint in self._from_settings}
        made: list[Endpoint] = []
        for entry in stored:
            if entry.definition is None or entry.id in known:
                continue
            try:
                made.append(parse_endpoint(json.loads(entry.definition), from_settings=False))
            except ValueError as error:
                _log.warning("the stored endpoint %s is not valid: %s", entry.id, error)
        self.all = (*self._from_settings, *made)
        self.ended = frozenset(entry.id for entry in stored if entry.is_ended)
        self._read_at = started_at

    async def read_active(self) -> tuple[Endpoint, ...]:
        """Return the endpoints that have not ended, read not long ago. Raises ServiceUnavailable where they were never read."""
        if time.monotonic() - self._read_at >= 2 * REFRESH_SECONDS:
            await self.refresh()
        return tuple(endpoint for endpoint in self.all if endpoint.id not in self.ended)

    def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint, None where it is unknown."""
        return next((endpoint for endpoint in self.all if endpoint.id == endpoint_id), None)

    def is_from_settings(self, endpoint_id: str) -> bool:
        """Return whether the API cannot remove it."""
        return any(endpoint.id == endpoint_id for endpoint in self._from_settings)
