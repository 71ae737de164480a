"""A writer's lease on its upload: renewed while it works, and looked at before it writes. It knows the store's port, no bytes."""

import asyncio
import time
from collections.abc import Callable

from services.common.aio.cancellation import cancel_and_wait
from services.common.errors import Conflict, ServiceUnavailable
from services.common.store.upload_store import UploadHandle, UploadStore

RENEWALS_PER_TTL = 3
"""The lease is renewed so many times while it lasts: two may fail before it ends."""


class Lease:
    """The hold on one upload, from a moment of the monotonic clock on. `lost` is told when another has it."""

    def __init__(
        self, store: UploadStore, upload: UploadHandle, requested_at: float, on_lost: Callable[[Conflict], object]
    ) -> None:
        self.upload = upload
        self._store = store
        self._on_lost = on_lost
        self._lost_error: Conflict | None = None
        self.mark_renewed(requested_at)
        self._renewal_task = asyncio.create_task(self._renew_loop())

    def mark_renewed(self, requested_at: float) -> None:
        """The store has just prolonged it, by a call that was made at `since`."""
        self._valid_until = requested_at + self._store.lease_ttl * 2 / 3

    async def ensure_held(self) -> None:
        """Raise Conflict where the hold is lost. To be called before each write.

        Where the lease may have run out it is renewed first: a process that was stopped wakes up here, and is told. By this
        machine's monotonic clock and not the loop's, which stands still within one turn.
        """
        if self._lost_error is not None:
            raise self._lost_error
        if time.monotonic() > self._valid_until:
            await self._renew_now()

    async def stop_renewing(self) -> None:
        """Renew no more."""
        await cancel_and_wait(self._renewal_task)

    async def _renew_now(self) -> None:
        began = time.monotonic()
        await self._store.renew_lease(self.upload)
        self.mark_renewed(began)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease_ttl / RENEWALS_PER_TTL)
            try:
                await self._renew_now()
            except ServiceUnavailable:
                continue
            except Conflict as error:
                self._lost_error = error
                self._on_lost(error)
                return
