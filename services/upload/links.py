"""Makes, prolongs and revokes signed links: the rules of who may, between the endpoint and the store."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from services.common.auth.authorization import missing_right
from services.common.auth.identity import Identity
from services.common.auth.keys import LEEWAY_SECONDS, Clock
from services.common.auth.link_authenticator import link_identity
from services.common.auth.revocations import Revocation, RevocationList
from services.common.auth.rights import Verb
from services.common.auth.signed_links import (
    MAX_LINK_LIFE_SECONDS,
    Link,
    LinkKind,
    LinkSigner,
    capped_expiry,
    is_link_id,
)
from services.common.errors import BadRequest, NotFound, Unauthorized
from services.common.live.addresses import INDEX_TEMPLATE
from services.common.media import MediaName
from services.common.media_path import media_path
from services.common.store.live_store import LiveStream
from services.common.store.media_reader import MediaFinder

_VERBS: dict[LinkKind, Verb] = {"get": "read", "put": "write", "live": "read"}


@dataclass(frozen=True, slots=True)
class WantedLink:
    """A link that shall be made. `life` in seconds; `follow`: it reads whatever has the name, and not this version alone.

    `stream` is the id of the live stream that it watches; what has one has no `name`.
    """

    kind: LinkKind
    name: MediaName | None
    life: float
    follow: bool = False
    max_size: int | None = None
    media_types: tuple[str, ...] = ()
    stream: str = ""


class StreamFinder(Protocol):
    """Finds live streams. Raises ServiceUnavailable."""

    async def get_stream(self, stream_id: str) -> LiveStream | None:
        """Return a stream, None where there is none."""


@dataclass(frozen=True, slots=True)
class MadeLink:
    """A link with its text and its end, a Unix time."""

    link: Link
    text: str
    expires_at: float

    @property
    def url(self) -> str:
        """The address to use it with, relative to the server."""
        paths: dict[LinkKind, str] = {
            "get": media_path(self.link.name),
            "put": "/file/tus",
            "live": INDEX_TEMPLATE.format(id=self.link.version),
        }
        return f"{paths[self.link.kind]}?link={quote(self.text, safe='')}"


class LinkIssuer:
    """Makes, prolongs and revokes links.

    Arguments:
        signer: signs them.
        revocations: what this process knows of them.
        files: finds the version that a link is bound to.
        streams: finds the live streams that links watch.
        store_change: stores a revocation or a later end, and has told the other processes of it within two seconds.
        clock: Unix time in seconds.

    """

    def __init__(
        self,
        signer: LinkSigner,
        revocations: RevocationList,
        files: MediaFinder,
        streams: StreamFinder,
        store_change: Callable[[Revocation], Awaitable[None]],
        clock: Clock = time.time,
    ) -> None:
        self._signer = signer
        self._revocations = revocations
        self._files = files
        self._streams = streams
        self._store_change = store_change
        self._clock = clock

    async def issue(self, identity: Identity, wanted: list[WantedLink]) -> list[MadeLink]:
        """Make links, all or none. They let their holders do nothing that their issuer may not.

        Raises InsufficientScope, Unauthorized for a caller without a token, NotFound, BadRequest.
        """
        if identity.is_anonymous:
            raise Unauthorized("links are made with a token, so that they can be revoked with it")
        names = [await self._name_of(one, number) for number, one in enumerate(wanted)]
        for one, name in zip(wanted, names, strict=True):
            _require_rights(identity, one.kind, name)
        return [
            await self._issue(identity, one, name, number)
            for number, (one, name) in enumerate(zip(wanted, names, strict=True))
        ]

    async def _name_of(self, wanted: WantedLink, number: int) -> MediaName:
        """Return the name of the file, or of the file that a stream is."""
        if wanted.name is not None:
            return wanted.name
        stream = await self._streams.get_stream(wanted.stream)
        if stream is None or stream.was_deleted:
            raise NotFound(f"links[{number}]: live stream not found")
        return stream.new.name

    async def _issue(self, identity: Identity, wanted: WantedLink, name: MediaName, number: int) -> MadeLink:
        version = wanted.stream
        if wanted.kind == "get" and not wanted.follow:
            info = await self._files.find(name)
            if info is None:
                raise NotFound(f"links[{number}]: file not found")
            version = info.file_id
        link = Link(
            id=self._signer.new_id(identity.subject),
            kind=wanted.kind,
            name=name,
            expires_at=capped_expiry(self._clock(), wanted.life, self._signer.last_expiry),
            subject=identity.subject,
            issued_at=identity.issued_at,
            token_id=identity.token_id,
            version=version,
            max_size=wanted.max_size,
            media_types=wanted.media_types,
        )
        try:
            return MadeLink(link, self._signer.sign(link), link.expires_at)
        except ValueError as error:
            raise BadRequest(f"links[{number}]: {error}") from error

    async def prolong(self, identity: Identity, link_id: str, text: str, life: float) -> MadeLink:
        """Let a link live for `life` seconds from now on, also one that has expired. It never ends earlier than before.

        The link itself is needed, because it says what its issuer must still be allowed to do.
        Raises NotFound for a link of another issuer, InvalidLink, InsufficientScope, BadRequest.
        """
        now = self._clock()
        self._require_issuer(identity, link_id, now)
        link, key_end = self._signer.verify(text, now)
        if link.id != link_id:
            raise BadRequest("the link has another id")
        if link.kind == "put":  # the store knows for the longest life of a link that it was used, and no longer
            raise BadRequest("a link that uploads is not prolonged: make another one")
        self._revocations.check(link_identity(link))
        _require_rights(identity, link.kind, link.name)
        expires_at = max(self._revocations.link_expiry(link), capped_expiry(now, life, key_end))
        if expires_at > link.expires_at:
            await self._store_change(Revocation("prolonged", link.id, 0.0, expires_at))
        return MadeLink(link, text, expires_at)

    async def revoke(self, identity: Identity, link_id: str) -> None:
        """Revoke a link. Idempotent. Raises NotFound for one of another issuer."""
        now = self._clock()
        self._require_issuer(identity, link_id, now)
        # One that another process prolongs at this moment ends before this is forgotten.
        until = now + MAX_LINK_LIFE_SECONDS + 6 * LEEWAY_SECONDS
        await self._store_change(Revocation("link", link_id, now, until))

    def _require_issuer(self, identity: Identity, link_id: str, now: float) -> None:
        may = self._signer.is_issuer(identity.subject, link_id, now) or (
            identity.rights.is_admin and is_link_id(link_id)
        )
        if not may:
            raise NotFound("link not found")


def _require_rights(identity: Identity, kind: LinkKind, name: MediaName) -> None:
    for verb in ("link", _VERBS[kind]):
        if not identity.rights.may_folder(verb, name.folder):
            raise missing_right(identity, verb, name.folder)
