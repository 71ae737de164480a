"""Authenticates requests: verifies a token once, and remembers the result by the SHA-256 of the token."""

import hashlib
import time
from collections.abc import Awaitable, Callable

from services.common.auth.identity import Identity
from services.common.auth.keys import LEEWAY_SECONDS, Clock, UnknownKey
from services.common.errors import InvalidToken

MAX_REMEMBERED_TOKENS = 10_000
"""Beyond it the oldest is forgotten. One takes about 600 bytes; the token itself is not kept."""

TokenVerifier = Callable[[str, float], Identity]
"""Returns the identity that a token proves at a Unix time. Raises InvalidToken, UnknownKey and ServiceUnavailable."""
RevocationCheck = Callable[[Identity], None]
"""Raises InvalidToken for an identity whose token or subject was revoked, ServiceUnavailable where that is not known."""


class Authenticator:
    """The identities that tokens prove.

    Arguments:
        verify: verifies a token by the keys of the mode.
        anonymous: the identity of callers without a token.
        fetch_keys: fetches newer keys; None where there are no others.
        check_revoked: asked each time, also for remembered tokens.
        clock: Unix time in seconds.

    `on_forget` is called when all results are forgotten.
    """

    def __init__(
        self,
        verify: TokenVerifier,
        anonymous: Identity,
        fetch_keys: Callable[[], Awaitable[None]] | None = None,
        check_revoked: RevocationCheck = lambda _identity: None,
        clock: Clock = time.time,
    ) -> None:
        self._verify = verify
        self._anonymous = anonymous
        self._fetch_keys = fetch_keys
        self.clock = clock
        self.check_revoked = check_revoked
        self.on_forget: Callable[[], object] = lambda: None
        self._verified: dict[bytes, Identity] = {}

    def forget_verified(self) -> None:
        """Forget all results: the keys are others than before."""
        self._verified.clear()
        self.on_forget()

    def authenticate(self, token: str | None) -> Identity:
        """Return the identity of a token, the anonymous one for None.

        Raises InvalidToken; UnknownKey where a newer key set may have the key; ServiceUnavailable where there is no key set.
        """
        if token is None:
            return self._anonymous
        digest = hashlib.sha256(token.encode("latin-1", "replace")).digest()
        now = self.clock()
        identity = self._verified.get(digest)
        if identity is None:
            identity = self._verify(token, now)
            if len(self._verified) >= MAX_REMEMBERED_TOKENS:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = identity
        elif now >= identity.expires_at + LEEWAY_SECONDS:
            del self._verified[digest]
            raise InvalidToken("it has expired")
        self.check_revoked(identity)
        return identity

    async def authenticate_or_fetch(self, token: str | None) -> Identity:
        """Return the same, after newer keys were fetched where the token's key is unknown. Raises no UnknownKey."""
        try:
            return self.authenticate(token)
        except UnknownKey:
            if self._fetch_keys is not None:
                await self._fetch_keys()
        try:
            return self.authenticate(token)
        except UnknownKey:
            raise InvalidToken("no key of this server has signed it") from None
