"""gridcast.webhooks: accepts what the server and the library of Standard Webhooks sign, and nothing else."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from gridcast.webhooks import CLOCK_TOLERANCE_SECONDS, InvalidWebhook, verify
from services.common.webhooks.signing import make_secret, signature_headers

SECRET, OTHER = make_secret(), make_secret()
NOW = 1_800_000_000
EVENT = {
    "specversion": "1.0",
    "id": "e1",
    "type": "file.created",
    "source": "/upload",
    "subject": "f/\u00e4",
    "sequence": "3",
    "time": "2027-01-15T08:00:00Z",
    "data": {"filename": "\u00e4"},
}
BODY = json.dumps(EVENT, ensure_ascii=False).encode()


def headers(*secrets: str, at: int = NOW, body: bytes = BODY) -> dict[str, str]:
    return signature_headers(secrets or (SECRET,), "e1", at, body)


def test_what_the_server_signs_is_accepted() -> None:
    event = verify(BODY, headers(), SECRET, now=NOW)
    assert (event.id, event.type, event.source, event.subject) == ("e1", "file.created", "/upload", "f/\u00e4")
    assert (event.sequence, event.time, event.data) == ("3", "2027-01-15T08:00:00Z", {"filename": "\u00e4"})


def test_what_the_library_signs_is_accepted() -> None:
    moment = datetime.fromtimestamp(NOW, UTC)
    signature = Webhook(SECRET).sign("e1", moment, BODY.decode())
    fields = {"Webhook-Id": "e1", "Webhook-Timestamp": str(NOW), "Webhook-Signature": signature}
    assert verify(BODY, fields, SECRET, now=NOW).type == "file.created"


@pytest.mark.parametrize("signing", [(SECRET,), (OTHER,), (OTHER, SECRET)])
def test_secrets_are_changed_without_a_loss(signing: tuple[str, ...]) -> None:
    assert verify(BODY, headers(*signing), [SECRET, OTHER], now=NOW).id == "e1"


@pytest.mark.parametrize("age", [-CLOCK_TOLERANCE_SECONDS, 0, CLOCK_TOLERANCE_SECONDS])
def test_clocks_may_differ_a_little(age: int) -> None:
    assert verify(BODY, headers(at=NOW - age), SECRET, now=NOW).id == "e1"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"webhook-id": None}, "webhook-id is missing"),
        ({"webhook-timestamp": None}, "webhook-timestamp is missing"),
        ({"webhook-signature": None}, "webhook-signature is missing"),
        ({"webhook-id": "e2"}, "no signature"),
        ({"webhook-timestamp": str(NOW - 1)}, "no signature"),
        ({"webhook-timestamp": "-1"}, "no Unix time"),
        ({"webhook-timestamp": "\u0661"}, "no Unix time"),
        ({"webhook-timestamp": "1" * 5_000}, "no Unix time"),
        ({"webhook-signature": ""}, "no signature"),
        ({"webhook-signature": "v1,"}, "no signature"),
        ({"webhook-signature": "v1,%%%"}, "no signature"),
        ({"webhook-signature": "v2,AAAA"}, "no signature"),
    ],
)
def test_other_fields_are_refused(changes: dict[str, str | None], fault: str) -> None:
    fields = {name: value for name, value in {**headers(), **changes}.items() if value is not None}
    with pytest.raises(InvalidWebhook, match=fault):
        verify(BODY, fields, SECRET, now=NOW)


@pytest.mark.parametrize(("age", "fault"), [(301, "too old"), (-301, "from the future")])
def test_old_and_early_messages_are_refused(age: int, fault: str) -> None:
    with pytest.raises(InvalidWebhook, match=fault):
        verify(BODY, headers(at=NOW - age), SECRET, now=NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"type": "a"}', b"[" * 100_000, b"\xff"])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidWebhook, match="no CloudEvents"):
        verify(body, headers(body=body), SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_AAAA", "AAAA" * 8, "whsec_%%%"])
def test_a_secret_that_is_none_is_an_error(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_") as caught:
        verify(BODY, headers(), secret, now=NOW)
    assert not isinstance(caught.value, InvalidWebhook)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_no_changed_byte_is_accepted(index: int, change: int) -> None:
    body = BODY[:index] + bytes([BODY[index] ^ change]) + BODY[index + 1 :]
    with pytest.raises(InvalidWebhook, match="no signature"):
        verify(body, headers(), SECRET, now=NOW)
