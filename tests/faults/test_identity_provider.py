"""An identity provider over three hours of an injected clock: gone for an hour, garbage, redirects, keys that rotate under load.

The fetcher, its HTTP and the endpoint are real; only the cache's clock is the test's. A step is five seconds of it.
"""

import asyncio
import heapq
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import count

import jwt
import pytest

from services.common.auth.authenticator import Authenticator
from services.common.auth.identity import Identity
from services.common.auth.jwks_cache import FORCED_INTERVAL_SECONDS, FRESH_SECONDS, JwksCache
from services.common.auth.jwks_fetcher import JwksFetcher
from services.common.auth.tokens import TokenPolicy, verify_token
from services.common.errors import GridcastError
from tests.support.tokens import claims
from tests.unit.common.auth.test_jwks_cache import Server, answer
from tests.unit.common.auth.test_tokens import PRIVATE, public_jwk

pytestmark = pytest.mark.anyio

STEP_SECONDS = 5.0
MINUTE = 60.0
TOKENS_OF_KEY = 8
WATCHED_SECONDS = 400.0
"""After a key was removed, longer than it may be served."""
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


@dataclass
class Clock:
    """A monotonic clock that stands until `advance` moves it, and the sleepers that wait for it."""

    now: float = 1000.0
    _sleepers: list[tuple[float, int, asyncio.Event]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)
    _asleep: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        due = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), due))
        self._asleep.set()
        await due.wait()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            heapq.heappop(self._sleepers)[2].set()
            self._asleep.clear()

    async def until_asleep(self) -> None:
        """Wait until the fetch has ended that the last step began."""
        async with asyncio.timeout(20):
            await self._asleep.wait()


def published(*names: str) -> bytes:
    return json.dumps({"keys": [public_jwk(name) for name in names]}).encode()


GONE = "gone"
FAULTS = {
    "html": answer(200, b"<html>maintenance</html>"),
    "redirect": answer(302, location="http://127.0.0.1:1/keys"),
    "symmetric": answer(200, b'{"keys":[{"kty":"oct","k":"AAAA","kid":"rsa"}]}'),
    "empty": answer(200, b'{"keys":[]}'),
    "large": answer(200, b" " * 300_000),
    "error": answer(500, published("ed")),
}
SCHEDULE: list[tuple[float, str | tuple[str, ...]]] = [
    (10, ("rsa", "ec")),
    (60, GONE),
    *((10.0, fault) for fault in FAULTS),
    (10, ("rsa", "ec")),
    (11, ("ec", "ed")),
    (7, ("ed", "rsa")),
    (6, ("rsa",)),
    (11, ("ec",)),
    (6, ("ec", "rsa", "ed")),
]
"""Minutes, and what the provider says in them: a fault, or the keys that it has."""


async def test_three_hours_of_a_provider() -> None:
    clock, said = Clock(), [SCHEDULE[0][1]]

    def respond(handler: BaseHTTPRequestHandler) -> None:
        now = said[-1]
        if isinstance(now, tuple):
            answer(200, published(*now))(handler)
        elif now == GONE:
            handler.close_connection = True  # no byte is sent
        else:
            FAULTS[now](handler)

    tokens = {
        name: [
            jwt.encode(claims(jti=str(number)), PRIVATE[name], algorithm, {"kid": name})
            for number in range(TOKENS_OF_KEY)
        ]
        for name, algorithm in ALGORITHMS.items()
    }
    known: tuple[str, ...] = ()
    removed_at: dict[str, float] = {}
    added_at: dict[str, float] = {}
    longest_served, longest_refused, judged = 0.0, 0.0, 0
    with Server(respond) as url:
        cache = JwksCache(JwksFetcher(url), lambda: clock.now, sleep=clock.sleep)
        authenticator = Authenticator(
            lambda token, now: verify_token(token, cache, TokenPolicy("gridcast"), now),
            Identity(),
            cache.fetch_for_unknown_key,
        )
        cache.on_change = authenticator.forget_verified

        async def is_accepted(token: str) -> bool:
            try:
                await authenticator.authenticate_or_fetch(token)
            except GridcastError:
                return False
            return True

        cache.start()
        await clock.until_asleep()
        for minutes, saying in SCHEDULE:
            said.append(saying)
            if isinstance(saying, tuple):
                removed_at |= dict.fromkeys(set(known) - set(saying), clock.now)
                added_at |= dict.fromkeys(set(saying) - set(known), clock.now)
                known = saying
            for _ in range(int(minutes * MINUTE / STEP_SECONDS)):
                clock.advance(STEP_SECONDS)
                await clock.until_asleep()
                # Those of keys that were removed long ago would let every removal be noticed at once: they force fetches.
                used = [
                    name for name in tokens if name in known or clock.now < removed_at.get(name, 0.0) + WATCHED_SECONDS
                ]
                for name, of_key in ((name, tokens[name]) for name in used):
                    accepted = await asyncio.gather(*map(is_accepted, of_key))
                    judged += len(accepted)
                    if name not in known:
                        if any(accepted):
                            longest_served = max(longest_served, clock.now - removed_at[name])
                    elif not all(accepted):
                        longest_refused = max(longest_refused, clock.now - added_at[name])
                        # Refused is only a key that no fetch can have brought yet.
                        assert clock.now - added_at[name] <= FORCED_INTERVAL_SECONDS, (name, saying)
        await cache.aclose()
    assert judged > 30_000
    assert 0 < longest_served <= FRESH_SECONDS, "a removed key, while the endpoint answers"
    assert longest_refused <= FORCED_INTERVAL_SECONDS
