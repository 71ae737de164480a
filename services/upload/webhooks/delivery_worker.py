"""Delivers to the endpoints: a queue, connections and workers for each, so that one that is dead costs the others nothing.

Any replica delivers what is due, whichever has relayed it. At most CONCURRENCY bodies of each endpoint are in memory.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import GridcastError
from services.common.store.delivery_store import DeliveryOutcome, DeliveryStore, WebhookDelivery
from services.common.telemetry import metrics
from services.common.webhooks.endpoints import Endpoint
from services.common.webhooks.http_sender import HTTPSender, Resolve, SendError
from services.common.webhooks.signing import signature_headers
from services.upload.webhooks.retry_schedule import TryOutcome, decide

CONCURRENCY = 8
"""Deliveries to one endpoint at the same time, in one process."""
FAILURES_TO_SLOW_DOWN = 5
"""After this many failures in a row, one delivery at a time is tried until one succeeds."""
TRY_TIMEOUT_SECONDS = 15.0
"""For one try, from resolution to the end of the answer."""
LEASE_SECONDS = 2 * TRY_TIMEOUT_SECONDS
"""How long a claim keeps others off: longer than a try and the recording of its outcome."""
QUEUE_POLL_SECONDS = 1.0
"""Between two looks into the queue while nothing was relayed here: for retries, and for what other replicas left."""
STORE_RETRY_SECONDS = 2.0
DRAIN_SECONDS = 2.0
"""How long tries in progress may go on at shutdown. Those that do not end are made again by another process."""

_log = logging.getLogger("gridcast.webhooks")


class EndpointWorker:
    """Delivers to one endpoint until it is closed. `on_gone` is called when the endpoint answers 410."""

    def __init__(
        self, endpoint: Endpoint, store: DeliveryStore, resolve: Resolve, on_gone: Callable[[str], object]
    ) -> None:
        self.endpoint = endpoint
        self._store = store
        self._on_gone = on_gone
        self._sender = HTTPSender(
            endpoint.url,
            is_private_allowed=endpoint.is_private_allowed,
            max_connections=CONCURRENCY,
            resolve=resolve,
        )
        self._wakeup = asyncio.Event()
        self._tries: set[asyncio.Task[None]] = set()
        self._failures_in_a_row = 0
        self._loop_task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look into the queue now."""
        self._wakeup.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._deliver_due()
            except GridcastError as error:
                _log.warning("deliveries to %s wait for the store: %s", self.endpoint.id, error)
                await asyncio.sleep(STORE_RETRY_SECONDS)
            except Exception:  # noqa: BLE001  # the queue is still there
                _log.exception("deliveries to %s failed", self.endpoint.id)
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _deliver_due(self) -> None:
        """Start a try for each delivery that is due, as far as there is room, then wait for more."""
        self._wakeup.clear()
        while len(self._tries) < (1 if self._failures_in_a_row >= FAILURES_TO_SLOW_DOWN else CONCURRENCY):
            delivery = await self._store.claim(self.endpoint.id, LEASE_SECONDS, ordered=self.endpoint.ordered)
            if delivery is None:
                break
            task = asyncio.create_task(self._try(delivery))
            self._tries.add(task)
            task.add_done_callback(self._tries.discard)
            task.add_done_callback(lambda _: self._wakeup.set())
        with suppress(TimeoutError):
            async with asyncio.timeout(QUEUE_POLL_SECONDS * random.uniform(0.7, 1.3)):  # noqa: S311  # spreads load
                await self._wakeup.wait()

    async def _try(self, delivery: WebhookDelivery) -> None:
        try:
            answer = await self._send(delivery)
            await self._settle(delivery, answer)
        except GridcastError as error:
            # Not settled: it is due again when the claim has ended.
            _log.warning("the outcome of %s was not recorded: %s", delivery.id, error)
        except Exception:  # noqa: BLE001  # a defect must not end the worker
            _log.exception("delivery %s failed", delivery.id)

    async def _send(self, delivery: WebhookDelivery) -> TryOutcome:
        started_at = time.monotonic()
        headers = signature_headers(self.endpoint.secrets, delivery.event_id, int(time.time()), delivery.body)
        try:
            found = await self._sender.post(headers, delivery.body, timeout_seconds=TRY_TIMEOUT_SECONDS)
        except SendError as error:
            latency = time.monotonic() - started_at
            return TryOutcome(None, str(error), latency=latency, timed_out=error.timed_out)
        fault = "" if 200 <= found.status < 300 else f"status {found.status}"
        return TryOutcome(found.status, fault, found.retry_after, time.monotonic() - started_at)

    async def _settle(self, delivery: WebhookDelivery, answer: TryOutcome) -> None:
        decision = decide(answer, delivery.failures, random.random)
        metrics.WEBHOOK_TRIES.labels(self.endpoint.id, decision.verdict).inc()
        if decision.verdict == "delivered":
            self._failures_in_a_row = 0
            metrics.WEBHOOK_DELAY.observe(delivery.age + answer.latency)
            outcome = DeliveryOutcome("done", answer.status)
        elif decision.verdict == "retry":
            self._failures_in_a_row += 1
            outcome = DeliveryOutcome("waiting", answer.status, answer.error, decision.delay)
        else:
            self._failures_in_a_row += 1
            outcome = DeliveryOutcome("dead", answer.status, answer.error)
            _log.warning("delivery %s is dead: %s", delivery.id, answer.error)
        await self._store.settle(delivery, outcome, ordered=self.endpoint.ordered)
        if decision.verdict == "ended":
            self._on_gone(self.endpoint.id)

    async def aclose(self) -> None:
        """Claim nothing more, give tries in progress a moment, then abandon them."""
        await cancel_and_wait(self._loop_task)
        if self._tries:
            await asyncio.wait(self._tries, timeout=DRAIN_SECONDS)
        await cancel_and_wait(*self._tries)
        await self._sender.aclose()
