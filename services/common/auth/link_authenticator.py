"""Authenticates requests by signed links: verifies a link once, and remembers the result by the SHA-256 of its text."""

import hashlib
import time
from urllib.parse import quote

from services.common.auth.identity import Identity
from services.common.auth.keys import Clock
from services.common.auth.revocations import RevocationList
from services.common.auth.rights import NO_RIGHTS, parse_scope
from services.common.auth.signed_links import Link, LinkSigner
from services.common.errors import InvalidLink

MAX_REMEMBERED_LINKS = 10_000
"""Beyond it the oldest is forgotten. One takes about a kilobyte."""


class LinkAuthenticator:
    """The identities that links stand for. `revocations` also knows which were prolonged; `clock` returns the Unix time."""

    def __init__(self, signer: LinkSigner, revocations: RevocationList, clock: Clock = time.time) -> None:
        self._signer = signer
        self._revocations = revocations
        self._clock = clock
        self._verified: dict[bytes, tuple[Identity, Link, float]] = {}

    def authenticate(self, text: str) -> Identity:
        """Return the identity of a link: its issuer, with the right for that one file.

        Raises InvalidLink: that it is late is said only of a link that was signed here. Raises ServiceUnavailable while the
        revocations are not known.
        """
        now = self._clock()
        digest = hashlib.sha256(text.encode("latin-1", "replace")).digest()
        if (found := self._verified.get(digest)) is None:
            link, key_end = self._signer.verify(text, now)
            found = (link_identity(link), link, key_end)
            if len(self._verified) >= MAX_REMEMBERED_LINKS:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = found
        identity, link, key_end = found
        if now >= key_end:
            raise InvalidLink("no key of this server has signed it")
        self._revocations.check(identity)
        if now >= link.expires_at and now >= self._revocations.link_expiry(link):
            raise InvalidLink("it has expired")
        return identity


def link_identity(link: Link) -> Identity:
    """Return the identity of the holder of a link. One that uploads may write into its folder; the handlers look at the rest."""
    rights = parse_scope(f"write:{quote(link.name.folder, safe='/')}") if link.kind == "put" else NO_RIGHTS
    return Identity(link.subject, rights, link.expires_at, link.token_id, link.issued_at, link)
