"""A writer's lease on its upload: renewed while it works, and looked at before it writes. It knows the store's port, no bytes."""

import asyncio
import time
from collections.abc import Callable

from services.common.errors import Conflict, Unavailable
from services.common.store.port import Upload, UploadStore
from services.common.tasks import end

RENEWALS = 3
"""The lease is renewed so many times while it lasts: two may fail before it ends."""


class Lease:
    """The hold on one upload, from a moment of the monotonic clock on. `lost` is told when another has it."""

    def __init__(self, store: UploadStore, upload: Upload, since: float, lost: Callable[[Conflict], object]) -> None:
        self.upload = upload
        self._store = store
        self._lost = lost
        self._fault: Conflict | None = None
        self.renewed(since)
        self._renewal = asyncio.create_task(self._renew())

    def renewed(self, since: float) -> None:
        """The store has just prolonged it, by a call that was made at `since`."""
        self._held_until = since + self._store.lease * 2 / 3

    async def check(self) -> None:
        """Raise Conflict where the hold is lost. To be called before each write.

        Where the lease may have run out it is renewed first: a process that was stopped wakes up here, and is told. By this
        machine's monotonic clock and not the loop's, which stands still within one turn.
        """
        if self._fault is not None:
            raise self._fault
        if time.monotonic() > self._held_until:
            await self._once()

    async def let_go(self) -> None:
        """Renew no more."""
        await end(self._renewal)

    async def _once(self) -> None:
        began = time.monotonic()
        await self._store.renew(self.upload)
        self.renewed(began)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease / RENEWALS)
            try:
                await self._once()
            except Unavailable:
                continue
            except Conflict as error:
                self._fault = error
                self._lost(error)
                return
