"""Webhooks of one process: relays committed events into deliveries, keeps a worker for each endpoint, and counts the queues."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import GridcastError
from services.common.store.delivery_store import WebhookStore
from services.common.store.upload_store import OutboxEvent
from services.common.telemetry import metrics
from services.common.webhooks.endpoints import Endpoint
from services.common.webhooks.http_sender import Resolve, Resolver
from services.common.webhooks.messages import make_deliveries
from services.upload.webhooks.delivery_worker import EndpointWorker
from services.upload.webhooks.endpoint_registry import REFRESH_SECONDS, EndpointRegistry

FIRST_RETRY_SECONDS = 0.2
"""Between attempts at the start, when the tables may not be created yet."""
EXPIRY_ROUNDS = 60
"""Refreshes between two deletions of deliveries whose time has passed: about five minutes."""
GONE_ERROR = "the endpoint has answered with 410"

_log = logging.getLogger("gridcast.webhooks")


class EventRelayer:
    """Relays events of the outbox into deliveries."""

    def __init__(self, store: WebhookStore, registry: EndpointRegistry) -> None:
        self._store = store
        self._registry = registry

    async def relay(self, events: Sequence[OutboxEvent]) -> list[str]:
        """Store the deliveries of events of one name, and return the endpoints that have some. Raises ServiceUnavailable."""
        endpoints = await self._registry.read_active()
        deliveries = make_deliveries(events, endpoints, datetime.now(UTC))
        await self._store.relay(events, deliveries)
        return sorted({delivery.endpoint_id for delivery in deliveries})

    async def relay_left_over(self, media_id: str) -> None:
        """Relay what a process has left that was killed behind a commit."""
        if events := await self._store.list_unrelayed(media_id):
            await self.relay(events)


class Webhooks:
    """Relays and delivers. `start` and `aclose` are called by the lifespan."""

    def __init__(self, store: WebhookStore, from_settings: Sequence[Endpoint], resolve: Resolve | None = None) -> None:
        self.store = store
        self.registry = EndpointRegistry(store, from_settings)
        self.relayer = EventRelayer(store, self.registry)
        self._resolver = Resolver()
        self._resolve: Resolve = resolve or self._resolver
        self._workers: dict[str, EndpointWorker] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._reconciling = asyncio.Lock()

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run())

    async def relay(self, events: Sequence[OutboxEvent]) -> None:
        """Relay events of one name, and wake the workers. Raises ServiceUnavailable."""
        for endpoint_id in await self.relayer.relay(events):
            self.wake(endpoint_id)

    def wake(self, endpoint_id: str | None = None) -> None:
        """Look into a queue now, or into all."""
        for worker in self._workers.values():
            if endpoint_id is None or worker.endpoint.id == endpoint_id:
                worker.wake()

    async def refresh(self) -> None:
        """Read the endpoints, and start and end workers accordingly. Raises ServiceUnavailable."""
        async with self._reconciling:
            await self.registry.refresh()
            wanted = {endpoint.id: endpoint for endpoint in self.registry.all if endpoint.id not in self.registry.ended}
            for endpoint_id in [
                known for known, worker in self._workers.items() if worker.endpoint != wanted.get(known)
            ]:
                await self._workers.pop(endpoint_id).aclose()
            for endpoint_id, endpoint in wanted.items():
                if endpoint_id not in self._workers:
                    self._workers[endpoint_id] = EndpointWorker(endpoint, self.store, self._resolve, self._on_gone)
            for endpoint_id in self.registry.ended:
                await self.store.bury(endpoint_id, GONE_ERROR)

    def _on_gone(self, endpoint_id: str) -> None:
        task = asyncio.create_task(self._end(endpoint_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, endpoint_id: str) -> None:
        _log.warning("the endpoint %s has answered with 410 and gets nothing more", endpoint_id)
        try:
            await self.store.set_ended(endpoint_id, ended=True)
            await self.refresh()
        except GridcastError as error:
            _log.warning("the end of %s was not recorded, and is found again: %s", endpoint_id, error)

    async def _run(self) -> None:
        rounds = 0
        while True:
            pause = FIRST_RETRY_SECONDS if not rounds else REFRESH_SECONDS
            try:
                await self.refresh()
                await self._count_queues()
                if rounds % EXPIRY_ROUNDS == 0:
                    await self.store.delete_expired()
                rounds += 1
                pause = REFRESH_SECONDS
            except GridcastError as error:
                # At the start the process is not ready while the store is away, and /readyz tells why.
                _log.log(logging.WARNING if rounds else logging.DEBUG, "endpoints of webhooks not read: %s", error)
            except Exception:  # noqa: BLE001  # the next round may succeed
                _log.exception("endpoints of webhooks not read")
            await asyncio.sleep(pause)

    async def _count_queues(self) -> None:
        found = {queue.endpoint_id: queue for queue in await self.store.summarize()}
        for endpoint_id in found.keys() | {endpoint.id for endpoint in self.registry.all}:
            queue = found.get(endpoint_id)
            metrics.WEBHOOK_WAITING.labels(endpoint_id).set(queue.waiting if queue else 0)
            metrics.WEBHOOK_OLDEST_SECONDS.labels(endpoint_id).set(queue.oldest if queue else 0)
            metrics.WEBHOOK_DEAD.labels(endpoint_id).set(queue.dead if queue else 0)

    async def aclose(self) -> None:
        """End the workers, all at the same time. What they had claimed is delivered by another process."""
        await cancel_and_wait(self._task, *self._ending)
        await asyncio.gather(*(worker.aclose() for worker in self._workers.values()))
        self._resolver.close()
