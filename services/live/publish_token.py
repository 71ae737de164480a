"""The publish token of a stream: a capability to send to that one stream (ADR 47). Pure but for the random bits.

256 random bits in base64url. The store keeps its SHA-256 alone. All refusals read alike: they do not tell a wrong token from one of
another stream or an expired one.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

from services.common.asgi import Scope
from services.common.auth.credentials import find_token
from services.common.errors import Forbidden, Unauthorized

TOKEN_BYTES = 32


def make_token() -> str:
    """Return a new token."""
    return base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode("ascii")


def digest_token(token: str) -> str:
    """Return what the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(token: str | None, token_sha256: str, expires_at: datetime, now: datetime) -> None:
    """Raise Unauthorized without a token, Forbidden where it is not that of the stream or has ended."""
    if not token:
        raise Unauthorized("this needs the publish token of the stream: Authorization: Bearer TOKEN")
    matches = hmac.compare_digest(digest_token(token), token_sha256)
    if not matches or now >= expires_at:
        raise invalid_token()


def invalid_token() -> Forbidden:
    """Return the refusal of any token that is not valid."""
    return Forbidden("the publish token is not valid")


def token_of(scope: Scope, key: str | None) -> str | None:
    """Return the token of a request: that of its path (`key`), else that of Authorization; None without one."""
    return key or find_token(scope["headers"])
