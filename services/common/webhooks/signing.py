"""Signatures of Standard Webhooks 1.0: HMAC-SHA256 over id, time and body, with secrets written as `whsec_` and base64. Pure."""

import base64
import binascii
import hashlib
import hmac
import secrets as random_secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105  # the marker, not a secret
MIN_WEBHOOK_SECRET_BYTES = 24
MAX_WEBHOOK_SECRET_BYTES = 64
MAX_WEBHOOK_SECRETS = 2
"""The new one and the old one, while receivers change."""
NEW_SECRET_BYTES = 32


def parse_secret(text: str) -> bytes:
    """Return the bytes of a secret. Raises ValueError, whose text does not have the secret."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a secret of a webhook begins with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"what follows {SECRET_PREFIX} is not base64") from None
    if not MIN_WEBHOOK_SECRET_BYTES <= len(key) <= MAX_WEBHOOK_SECRET_BYTES:
        raise ValueError(
            f"a secret of a webhook has {MIN_WEBHOOK_SECRET_BYTES} to {MAX_WEBHOOK_SECRET_BYTES} bytes before base64"
        )
    return key


def parse_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of a file, one on each line, the new one first. Raises ValueError unless there are one or two."""
    found = tuple(text.split())
    if not 1 <= len(found) <= MAX_WEBHOOK_SECRETS:
        raise ValueError("an endpoint has one secret, or two while it is changed, the new one first")
    for secret in found:
        parse_secret(secret)
    return found


def make_secret() -> str:
    """Return a new random secret."""
    return SECRET_PREFIX + base64.b64encode(random_secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature, `v1,` and base64. `timestamp` in Unix seconds; neither it nor the id may have a dot."""
    if "." in message_id:
        raise ValueError("the id of a signed message has no dot")
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(parse_secret(secret), signed, hashlib.sha256).digest()).decode()


def signature_headers(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a message: signed with every secret, so that a receiver with either accepts it."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }
