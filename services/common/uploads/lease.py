"""A writer's lease on its upload: renewed while the writer works, and checked before each write."""

import asyncio
import time
from collections.abc import Callable

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import Conflict, ServiceUnavailable, drop_tracebacks
from services.common.store.upload_store import LeaseRenewer, UploadHandle

RENEWALS_PER_TTL = 3
"""The lease is renewed this many times while it lasts: two renewals may fail before it ends."""


class Lease:
    """The lease on one upload, requested at a time of the monotonic clock. `on_lost` is called when another writer acquires it."""

    def __init__(
        self, store: LeaseRenewer, upload: UploadHandle, requested_at: float, on_lost: Callable[[Conflict], object]
    ) -> None:
        self.upload = upload
        self._store = store
        self._on_lost = on_lost
        self._lost_error: Conflict | None = None
        self.mark_renewed(requested_at)
        self._renewal_task: asyncio.Task[None] | None = asyncio.create_task(self._renew_loop())

    def mark_renewed(self, requested_at: float) -> None:
        """Note that a call to the store made at `requested_at` has renewed the lease."""
        self._valid_until = requested_at + self._store.lease_ttl * 2 / 3

    async def ensure_held(self) -> None:
        """Raise Conflict where the lease is lost. To be called before each write.

        Where the lease may have ended it is renewed first: a process that was paused finds out here. Measured by the machine's
        monotonic clock and not by the loop's, which stands still within one iteration.
        """
        if self._lost_error is not None:
            raise self._lost_error
        if time.monotonic() > self._valid_until:
            await self._renew_now()

    async def stop_renewing(self) -> None:
        """End the renewals."""
        await cancel_and_wait(self._renewal_task)
        self._renewal_task = None  # its cancellation has a traceback, whose frames refer to this lease

    async def _renew_now(self) -> None:
        requested_at = time.monotonic()
        await self._store.renew_lease(self.upload)
        self.mark_renewed(requested_at)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease_ttl / RENEWALS_PER_TTL)
            try:
                await self._renew_now()
            except ServiceUnavailable:
                continue
            except Conflict as error:
                drop_tracebacks(error)
                self._lost_error = error
                self._on_lost(error)
                return
