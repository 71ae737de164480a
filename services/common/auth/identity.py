"""Who sends a request: the result of a verified credential. Pure."""

import math
from dataclasses import dataclass

from services.common.asgi import Scope
from services.common.auth.rights import NO_RIGHTS, Rights
from services.common.auth.signed_links import Link

SCOPE_KEY = "gridcast.identity"
"""Key of the identity in an ASGI scope. No header field of a request ever sets it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A subject and its rights.

    `subject` is the `sub` of a token, empty for an anonymous caller. Times are Unix times in seconds: `expires_at` is the `exp` of
    the token, `issued_at` its `iat`, 0 without one. `token_id` is its `jti`, empty without one. `link` is the signed link that was
    presented instead of a token; the subject is then its issuer, and the times and the id are those of the issuer's token.
    """

    subject: str = ""
    rights: Rights = NO_RIGHTS
    expires_at: float = math.inf
    token_id: str = ""
    issued_at: float = 0.0
    link: Link | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether no credential was presented."""
        return not self.subject


def subject_of(identity: Identity | None) -> str:
    """Return the subject that owns what the caller stores: empty for an anonymous one and where authentication is off."""
    return "" if identity is None else identity.subject


def identity_of(scope: Scope) -> Identity | None:
    """Return the identity that the authorization put into an ASGI scope; None where authentication is off."""
    identity: Identity | None = scope.get(SCOPE_KEY)
    return identity


def link_of(scope: Scope) -> Link | None:
    """Return the signed link that authorised the request of an ASGI scope, None without one."""
    identity = identity_of(scope)
    return None if identity is None else identity.link
