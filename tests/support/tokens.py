"""Signs tokens for tests: good ones, and every kind of bad one."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

SECRET = "f3a1c9d07b52e84661d0aa97c4be8f1320957e6bd1c48fa2"
"""A secret of the services under test. Made by chance, used nowhere else."""
OTHER_SECRET = "7d20b6c18f4e9a35d2714b0c6f8e1a93c5d7f20416e8b3a9"
AUDIENCE = "gridcast"
AUTH_ENV = {"GRIDCAST_AUTH": "hs256", "GRIDCAST_AUTH_SECRET": f"k1 {SECRET}"}


def encode_segment(value: Any) -> str:
    """One base64url segment of a token: JSON, or bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: Any, claims: Any, secret: bytes | str = SECRET) -> str:
    """A token with this header and these claims, signed by HMAC with SHA-256 whatever they say."""
    signed = f"{encode_segment(header)}.{encode_segment(claims)}"
    key = secret.encode() if isinstance(secret, str) else secret
    mac = hmac.digest(key, signed.encode(), hashlib.sha256)
    return f"{signed}.{encode_segment(mac)}"


def claims(subject: str = "alice", scope: str | None = None, **changes: Any) -> dict[str, Any]:
    """The claims of a good token that lives for six hours, as long as any test run; a change to None leaves a claim out."""
    now = int(time.time())
    members = {
        "sub": subject,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 6 * 3600,
        "jti": secrets.token_hex(8),
        "scope": scope,
    }
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def token(subject: str = "alice", scope: str | None = None, secret: str = SECRET, **changes: Any) -> str:
    """A token of the mode hs256."""
    return sign({"alg": "HS256", "typ": "JWT", "kid": "k1"}, claims(subject, scope, **changes), secret)


def bearer(value: str) -> dict[str, str]:
    """The header field that carries a token."""
    return {"authorization": f"Bearer {value}"}


def authorized(scope: str, subject: str = "alice", **changes: Any) -> dict[str, str]:
    """The header field of a token with these rights."""
    return bearer(token(subject, scope, **changes))
