"""Makes tokens of the mode hs256. Pure.

With the standard library alone: who makes a token needs no library that verifies signatures.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

from services.common.auth.key_ring import RingKey


def mint_token(key: RingKey, claims: Mapping[str, Any]) -> str:
    """Return a JSON Web Token in its compact form (RFC 7519), signed by HMAC with SHA-256 (RFC 7518, 3.2)."""
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    signed = f"{_encode_json(header)}.{_encode_json(claims)}"
    return f"{signed}.{_encode(hmac.digest(key.secret, signed.encode('ascii'), 'sha256'))}"


def _encode_json(members: Mapping[str, Any]) -> str:
    return _encode(json.dumps(members, separators=(",", ":")).encode("ascii"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
