"""Keeps the key set of an identity provider: fresh for five minutes, kept for a day while the provider does not answer.

A removed key is refused five minutes later, however often it is used, while the provider answers. A provider that is away refuses
no one with a known key.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from services.common.aio.cancellation import cancel_and_wait
from services.common.aio.singleflight import SingleFlight
from services.common.auth.jwks import KeySet, parse_key_set
from services.common.auth.keys import UnknownKey, VerificationKey
from services.common.errors import ServiceUnavailable

FRESH_SECONDS = 300.0
"""A set is replaced before it is older. The loop asks at half of it, so that one failure costs nothing."""
KEPT_SECONDS = 86400.0
"""A set is used for this long while no newer one can be fetched."""
FORCED_INTERVAL_SECONDS = 30.0
"""Between two fetches that tokens with unknown keys cause, and between two attempts while the provider does not answer."""
FIRST_INTERVAL_SECONDS = 2.0
"""Between two attempts while there is no set: until then the service is not ready."""

_log = logging.getLogger("gridcast.auth")


class JwksCache:
    """A `KeySource` of the key set at one URL.

    `fetch` returns the document, or raises an exception; `clock` returns monotonic seconds; `on_change` is called when the keys are
    others than before; `sleep` waits for seconds of that clock.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        clock: Callable[[], float],
        on_change: Callable[[], object] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self.on_change = on_change
        self._sleep = sleep
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._attempted_at: float | None = None
        self._fault = ""
        self._refresh = SingleFlight(self._fetch_once)
        self._task: asyncio.Task[None] | None = None

    def find_keys(self, kid: str | None, algorithm: str, now: float) -> Sequence[VerificationKey]:
        """Return the keys for a token. Raises UnknownKey, also before the first fetch, and ServiceUnavailable for an old set."""
        del now  # a set ends by the monotonic clock, which no one sets
        if self._keys is None:
            raise UnknownKey
        if self._clock() - self._fetched_at > KEPT_SECONDS:
            raise ServiceUnavailable("the keys of the identity provider could not be fetched for a day")
        return self._keys.find_keys(kid, algorithm)

    async def fetch_for_unknown_key(self) -> None:
        """Fetch the set, but at most once in FORCED_INTERVAL_SECONDS. Raises ServiceUnavailable while there is none."""
        if (
            self._attempted_at is None
            or self._clock() - self._attempted_at >= FORCED_INTERVAL_SECONDS
            or self._refresh.running
        ):
            await self._refresh()
        await self.check_health()

    async def check_health(self) -> None:
        """Raise ServiceUnavailable where there is no set. For /readyz."""
        if self._keys is None:
            raise ServiceUnavailable("the keys of the identity provider could not be fetched yet")

    def start(self) -> None:
        """Fetch the set now and from now on."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop fetching."""
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        while True:
            await self._refresh()
            retry = FIRST_INTERVAL_SECONDS if self._keys is None else FORCED_INTERVAL_SECONDS
            pause = retry if self._fault else FRESH_SECONDS / 2
            await self._sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311  # jitter, not a secret

    async def _fetch_once(self) -> None:
        self._attempted_at = self._clock()
        began = self._clock()
        try:
            keys = parse_key_set(await self._fetch())
        except Exception as error:  # noqa: BLE001  # whatever the endpoint answers, the set that is there stays
            fault = str(error) or type(error).__name__
            if fault != self._fault:
                _log.warning("the key set of the identity provider was not replaced: %s", fault)
            self._fault = fault
            return
        if self._fault:
            _log.info("the key set of the identity provider was fetched again")
        self._fault = ""
        changed = self._keys is None or self._keys.fingerprint != keys.fingerprint
        # Both are set before tokens that were verified are forgotten: none is verified with the old set afterwards.
        self._keys, self._fetched_at = keys, began
        if changed:
            self.on_change()
