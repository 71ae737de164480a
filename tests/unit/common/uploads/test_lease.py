"""services.common.uploads.lease: what is left of a lease."""

import asyncio
import gc
import weakref

import pytest

from services.common.store.upload_store import UploadHandle
from services.common.uploads.lease import Lease

pytestmark = pytest.mark.anyio


class Renewer:
    """A store that renews every lease."""

    lease_ttl = 0.003

    def __init__(self) -> None:
        self.renewed = asyncio.Event()

    async def renew_lease(self, upload: UploadHandle) -> None:
        del upload
        self.renewed.set()

    async def release_lease(self, upload: UploadHandle) -> None:
        raise AssertionError(upload)


async def test_a_lease_that_has_ended_leaves_nothing_for_the_garbage_collector() -> None:
    """It runs after 50,000 objects, and a lease refers to the body of its request."""
    store = Renewer()
    lease = Lease(store, UploadHandle("an-id", None, 1, ""), 0, lambda _: None)
    alive = weakref.ref(lease)
    async with asyncio.timeout(10):
        await store.renewed.wait()
    gc.collect()
    gc.disable()
    try:
        await lease.stop_renewing()
        await lease.stop_renewing()
        del lease
        await asyncio.sleep(0)
        assert alive() is None
    finally:
        gc.enable()
