"""Remembers which requests were authorised, by everything that the decision depends on but time and revocations. Pure.

Players ask for hundreds of ranges of one address with one credential. Finding, verifying and comparing it anew cost 10 us of a
small request's 50 us, a look-up costs 3.
"""

from typing import NamedTuple

from services.common.asgi import Scope
from services.common.auth.identity import Identity

MAX_GRANTED_REQUESTS = 1_024
MAX_KEY_BYTES = 2 * 1024
"""Bytes of address and credential of a request that is remembered: players' are shorter, and 2 MiB are the most that is held."""

RequestKey = tuple[str, bytes, bytes, bytes]


class Grant(NamedTuple):
    """The identity of an authorised request, and the Unix time until which the decision holds."""

    identity: Identity
    valid_until: float


class GrantedRequests:
    """The requests that were authorised last. What was decided by keys that are gone must be forgotten (`clear`)."""

    def __init__(self) -> None:
        self._grants: dict[RequestKey, Grant] = {}

    def clear(self) -> None:
        """Forget all."""
        self._grants.clear()

    def get(self, key: RequestKey, now: float) -> Identity | None:
        """Return the identity of a request that was authorised, None where it is to be decided."""
        grant = self._grants.get(key)
        return grant.identity if grant is not None and now < grant.valid_until else None

    def put(self, key: RequestKey, grant: Grant) -> None:
        """Remember a decision, unless its key is too long; beyond MAX_GRANTED_REQUESTS the oldest is forgotten."""
        _, raw_path, query, token = key
        if len(raw_path) + len(query) + len(token) > MAX_KEY_BYTES:
            return
        self._grants.pop(key, None)
        if len(self._grants) >= MAX_GRANTED_REQUESTS:
            del self._grants[next(iter(self._grants))]
        self._grants[key] = grant


def request_key(scope: Scope) -> RequestKey | None:
    """Return what decides about a request; None where header fields decide, or where there is no single credential to compare.

    GET and HEAD are decided by their address and their credential. A request without a credential is decided quickly anyway.
    """
    method: str = scope["method"]
    if method not in {"GET", "HEAD"}:
        return None
    token = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            if token:
                return None
            token = value
    query: bytes = scope["query_string"]
    return (method, scope["raw_path"], query, token) if token or query else None
