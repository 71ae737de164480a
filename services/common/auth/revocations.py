"""Revocations: tokens, subjects and links that are refused before they end, and links that were prolonged. Pure.

A token is revoked by its id (`jti`), a subject with all tokens that were issued up to a moment: one that is issued later is good.
Links fall with the token that made them.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from services.common.auth.identity import Identity
from services.common.auth.signed_links import Link
from services.common.errors import InvalidLink, InvalidToken, ServiceUnavailable

RevocationKind = Literal["subject", "token", "link", "prolonged"]
"""`prolonged` is no revocation: it is the later end of a link, and travels in the same list."""
TOKEN_KINDS: tuple[RevocationKind, ...] = ("subject", "token")
LINK_KINDS: tuple[RevocationKind, ...] = ("link", "prolonged")
"""In the order in which they are kept where there are too many. Who may make links adds to these alone."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation. Times are Unix times in seconds: tokens issued after `before` are good; after `until` all have ended.

    `value` is the subject, the `jti`, or the id of a link.
    """

    kind: RevocationKind
    value: str
    before: float
    until: float


class RevocationList:
    """What this process knows of the revocations. Until it knows them for the first time it refuses all tokens."""

    def __init__(self) -> None:
        self._tokens: frozenset[str] = frozenset()
        self._links: frozenset[str] = frozenset()
        self._subjects: dict[str, float] = {}
        self._prolonged: dict[str, float] = {}
        self._is_empty = True
        self.known = False

    def replace(self, revocations: Iterable[Revocation]) -> bool:
        """Take over the current revocations. Returns whether they are others than before."""
        tokens: set[str] = set()
        links: set[str] = set()
        subjects: dict[str, float] = {}
        prolonged: dict[str, float] = {}
        for one in revocations:
            match one.kind:
                case "token":
                    tokens.add(one.value)
                case "link":
                    links.add(one.value)
                case "prolonged":
                    prolonged[one.value] = one.until
                case "subject":
                    subjects[one.value] = max(one.before, subjects.get(one.value, -math.inf))
        changed = not self.known or tokens != self._tokens or links != self._links or subjects != self._subjects
        self._tokens, self._links, self.known = frozenset(tokens), frozenset(links), True
        self._subjects, self._prolonged = subjects, prolonged
        self._is_empty = not (tokens or links or subjects)
        return changed

    def forget(self) -> None:
        """Drop the list, because the place where it was read from has lost it."""
        self.known = False

    async def check_known(self) -> None:
        """Raise ServiceUnavailable while the revocations are not known. For /readyz."""
        if not self.known:
            raise ServiceUnavailable("the revoked tokens are not known yet")

    def link_expiry(self, link: Link) -> float:
        """Return the Unix time at which a link ends, the later end of one that was prolonged."""
        return max(link.expires_at, self._prolonged.get(link.id, 0.0))

    def check(self, identity: Identity) -> None:
        """Raise for what was revoked, InvalidToken or InvalidLink; ServiceUnavailable while the revocations are not known."""
        if not identity.subject:  # an anonymous caller; the property would cost a tenth of this method
            return
        if not self.known:
            raise ServiceUnavailable("the revoked tokens are not known yet")
        if self._is_empty:
            return
        if identity.link is not None and identity.link.id in self._links:
            raise InvalidLink("it was revoked")
        if (identity.token_id and identity.token_id in self._tokens) or identity.issued_at <= self._subjects.get(
            identity.subject, -math.inf
        ):
            raise InvalidToken("it was revoked") if identity.link is None else InvalidLink("its issuer was revoked")


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
