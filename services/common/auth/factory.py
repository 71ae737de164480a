"""Builds what a service needs for its mode of authentication. The one place that reads the settings of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.auth.authenticator import Authenticator
from services.common.auth.authorization import Authorization, FolderReader
from services.common.auth.identity import Identity
from services.common.auth.key_ring import KeyRing, parse_key_ring
from services.common.auth.key_sources import RingKeys
from services.common.auth.keys import KeySource
from services.common.auth.link_authenticator import LinkAuthenticator
from services.common.auth.play_seals import PlaySealer
from services.common.auth.revocations import RevocationList
from services.common.auth.rights import parse_scope
from services.common.auth.route_rules import RuleTable
from services.common.auth.sids import SidSigner
from services.common.auth.signed_links import LinkSigner
from services.common.settings import AuthSettings
from services.common.web.active_requests import ActiveRequests
from services.common.web.health import ReadinessCheck

if TYPE_CHECKING:
    from services.common.auth.jwks_cache import JwksCache


@dataclass(frozen=True, slots=True)
class Auth:
    """The authentication of one process. `jwks` is None in the mode hs256."""

    authenticator: Authenticator
    ring: KeyRing
    sids: SidSigner
    revocations: RevocationList
    active_requests: ActiveRequests
    link_signer: LinkSigner
    links: LinkAuthenticator
    play_seals: PlaySealer
    jwks: "JwksCache | None" = None

    def start(self) -> None:
        """Start to fetch keys. Called in the lifespan."""
        if self.jwks is not None:
            self.jwks.start()

    async def aclose(self) -> None:
        """Stop."""
        if self.jwks is not None:
            await self.jwks.aclose()

    def readiness_checks(self) -> dict[str, ReadinessCheck]:
        """Return the checks for /readyz."""
        checks: dict[str, ReadinessCheck] = {"revocations": self.revocations.check_known}
        return checks if self.jwks is None else {**checks, "jwks": self.jwks.check_health}


def create_auth(settings: AuthSettings) -> Auth | None:
    """Return the authentication that the settings ask for; None where it is off."""
    if settings.auth == "off":
        return None
    # Imported here: without authentication no process loads a library for signatures (15 MiB) or an HTTP client (8 MiB).
    from services.common.auth.tokens import TokenPolicy, verify_token  # noqa: PLC0415

    ring = parse_key_ring(settings.auth_secret.get_secret_value())
    policy = TokenPolicy(
        audience=settings.auth_audience,
        issuer=settings.auth_issuer,
        scope_claim=settings.auth_scope_claim,
        default_scope=settings.auth_default_scope,
        max_life=settings.auth_max_token_life,
    )
    jwks = create_jwks_cache(settings) if settings.auth == "jwks" else None
    keys: KeySource = RingKeys(ring) if jwks is None else jwks
    revocations = RevocationList()
    authenticator = Authenticator(
        lambda token, now: verify_token(token, keys, policy, now),
        Identity(rights=parse_scope(settings.auth_anonymous_scope)),
        None if jwks is None else jwks.fetch_for_unknown_key,
        revocations.check,
    )
    if jwks is not None:
        jwks.on_change = authenticator.forget_verified
    link_signer = LinkSigner(ring)
    return Auth(
        authenticator,
        ring,
        SidSigner(ring, time.time),
        revocations,
        ActiveRequests(revocations.check),
        link_signer,
        LinkAuthenticator(link_signer, revocations),
        PlaySealer(ring, time.time),
        jwks,
    )


def create_jwks_cache(settings: AuthSettings) -> "JwksCache":
    """Return the key set of the identity provider."""
    from services.common.auth.jwks_cache import JwksCache  # noqa: PLC0415
    from services.common.auth.jwks_fetcher import JwksFetcher  # noqa: PLC0415

    return JwksCache(JwksFetcher(settings.auth_jwks_url), time.monotonic)


def create_authorization(
    auth: Auth | None, routes: Iterable[tuple[str, str]], tus_folder: FolderReader | None = None
) -> Authorization | None:
    """Return the authorisation of a service with these routes; None where authentication is off.

    Raises RuntimeError for a route without a rule, also where authentication is off.
    """
    rules = RuleTable(routes)
    if auth is None:
        return None
    return Authorization(auth.authenticator, rules, auth.sids, tus_folder, auth.active_requests, auth.links)
