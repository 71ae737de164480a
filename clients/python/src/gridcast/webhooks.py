"""Verifies webhooks in the application that receives them (Standard Webhooks 1.0). Needs the standard library alone.

    event = gridcast.webhooks.verify(body, headers, "whsec_...")

`body` are the bytes as they came: a JSON that was parsed and written again has another signature.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SECRET_MARK = "whsec_"  # noqa: S105  # the marker, not a secret
CLOCK_TOLERANCE_SECONDS = 300
"""How far the clocks of sender and receiver may differ, and how old a message may be."""
_SHORTEST_SECRET_BYTES = 24


class InvalidWebhook(ValueError):
    """A message that is not from the server that has the secret, or an old one; the text says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One event: a CloudEvents object in its parts.

    `id` is that of the message, the same at every try: an application that remembers it handles no event twice. `sequence` is the
    revision of the file as text. `subject` is `folder/filename`, None where an event has none.
    """

    id: str
    type: str
    source: str
    subject: str | None
    sequence: str | None
    time: str | None
    data: Any


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = CLOCK_TOLERANCE_SECONDS,
    now: float | None = None,
) -> WebhookEvent:
    """Return the event of a message whose signature is good.

    Args:
        body: the bytes of the request, as they came.
        headers: the header fields; names in any case.
        secret: `whsec_` and base64; several while it is changed.
        tolerance: seconds by which the time of the message may differ from `now`, a Unix time, by default the clock's.

    Raises:
        InvalidWebhook: a field is missing, no signature is good, or the message is too old or too new.
        ValueError: the secret is none.

    """
    fields = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (fields[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise InvalidWebhook(f"the header field {error.args[0]} is missing") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise InvalidWebhook("webhook-timestamp is no Unix time")
    signed = f"{message_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    secrets = [secret] if isinstance(secret, str) else list(secret)
    expected = [hmac.digest(_parse_secret(one), signed, hashlib.sha256) for one in secrets]
    found = [_decode(text.removeprefix("v1,")) for text in signatures.split(" ") if text.startswith("v1,")]
    if not any(hmac.compare_digest(one, other) for one in expected for other in found):
        raise InvalidWebhook("no signature of the message is good")
    age = (time.time() if now is None else now) - int(timestamp)
    if abs(age) > tolerance:
        raise InvalidWebhook(
            "the message is too old" if age > 0 else "the message is from the future: check the clocks"
        )
    try:
        document = json.loads(body)
        return WebhookEvent(
            message_id,
            str(document["type"]),
            str(document["source"]),
            document.get("subject"),
            document.get("sequence"),
            document.get("time"),
            document.get("data"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidWebhook("the body is no CloudEvents object") from None


def _parse_secret(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_MARK), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_SECRET_MARK) or len(key) < _SHORTEST_SECRET_BYTES:
        raise ValueError(f"a secret of webhooks is {_SECRET_MARK} and base64 of {_SHORTEST_SECRET_BYTES} bytes or more")
    return key


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
