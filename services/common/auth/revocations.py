"""Revocations: tokens and subjects whose tokens are refused before they end. Pure.

A token is revoked by its id (`jti`), a subject with all tokens that were issued up to a moment: one that is issued later is good.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from services.common.auth.identity import Identity
from services.common.errors import InvalidToken, ServiceUnavailable

RevocationKind = Literal["subject", "token"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation. Times are Unix times in seconds: tokens issued after `before` are good; after `until` all have ended."""

    kind: RevocationKind
    value: str
    before: float
    until: float


class RevocationList:
    """What this process knows of the revocations. Until it knows them for the first time it refuses all tokens."""

    def __init__(self) -> None:
        self._tokens: frozenset[str] = frozenset()
        self._subjects: dict[str, float] = {}
        self.known = False

    def replace(self, revocations: Iterable[Revocation]) -> bool:
        """Take over the current revocations. Returns whether they are others than before."""
        tokens: set[str] = set()
        subjects: dict[str, float] = {}
        for one in revocations:
            if one.kind == "token":
                tokens.add(one.value)
            else:
                subjects[one.value] = max(one.before, subjects.get(one.value, -math.inf))
        changed = not self.known or tokens != self._tokens or subjects != self._subjects
        self._tokens, self._subjects, self.known = frozenset(tokens), subjects, True
        return changed

    def forget(self) -> None:
        """Drop the list, because the place where it was read from has lost it."""
        self.known = False

    async def check_known(self) -> None:
        """Raise ServiceUnavailable while the revocations are not known. For /readyz."""
        if not self.known:
            raise ServiceUnavailable("the revoked tokens are not known yet")

    def check(self, identity: Identity) -> None:
        """Raise InvalidToken for a revoked token, and ServiceUnavailable while the revocations are not known."""
        if identity.is_anonymous:
            return
        if not self.known:
            raise ServiceUnavailable("the revoked tokens are not known yet")
        if identity.token_id and identity.token_id in self._tokens:
            raise InvalidToken("it was revoked")
        if identity.issued_at <= self._subjects.get(identity.subject, -math.inf):
            raise InvalidToken("it was revoked")


def encode_revocations(revocations: Iterable[Revocation]) -> str:
    """Return the revocations as JSON, for the services that do not read the store."""
    return json.dumps([[one.kind, one.value, one.before, one.until] for one in revocations], separators=(",", ":"))


def decode_revocations(data: bytes) -> list[Revocation]:
    """Return what `encode_revocations` wrote. Raises ValueError."""
    try:
        entries = json.loads(data)
        return [Revocation(kind, str(value), float(before), float(until)) for kind, value, before, until in entries]
    except (TypeError, RecursionError) as error:
        raise ValueError("malformed revocations") from error
