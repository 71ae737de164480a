"""Stores revocations, and passes them on to the services that do not read the store."""

import time
from collections.abc import Sequence

from gridcast._bus.keys import REVOCATIONS_KEY
from services.common.auth.factory import Auth
from services.common.auth.revocation_poller import RevocationPoller
from services.common.auth.revocations import Revocation, encode_revocations
from services.common.bus.redis import RedisClient
from services.common.store.revocation_store import RevocationStore


def create_revocation_poller(auth: Auth, store: RevocationStore, redis: RedisClient) -> RevocationPoller:
    """Return a poller of the store that writes what it read into Redis each time: Redis may have been emptied meanwhile."""

    async def pass_on(revocations: Sequence[Revocation]) -> None:
        await redis.execute("SET", REVOCATIONS_KEY, encode_revocations(revocations))

    return RevocationPoller(
        auth.revocations, lambda: store.list_current(time.time()), auth.active_requests.cut_revoked, pass_on
    )


async def revoke(store: RevocationStore, poller: RevocationPoller | None, revocation: Revocation) -> None:
    """Store a revocation, and read it at once where authentication is on. Raises ServiceUnavailable where it was not stored."""
    await store.add(revocation)
    if poller is not None:
        await poller.poll()
