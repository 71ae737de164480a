"""Signatures, judged by the library of Standard Webhooks for Python, which stands outside this repository."""

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from services.common.webhooks.signing import make_secret, parse_secret, parse_secrets, sign, signature_headers

BODY = b'{"type":"file.created","data":{"filename":"\xc3\xa4.webm"}}'


def test_the_vector_of_the_specification() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(body=st.text(max_size=200), identifier=st.text("abcdef0123456789", min_size=1, max_size=24))
def test_the_library_accepts_every_message(body: str, identifier: str) -> None:
    secret = make_secret()
    headers = signature_headers([secret], identifier, int(time.time()), body.encode())
    Webhook(secret).verify(body, headers, json_parse=False)


def test_both_secrets_are_accepted_while_they_are_changed() -> None:
    new, old, foreign = make_secret(), make_secret(), make_secret()
    headers = signature_headers([new, old], "e1", int(time.time()), BODY)
    for secret in (new, old):
        assert Webhook(secret).verify(BODY, headers)["type"] == "file.created"
    with pytest.raises(WebhookVerificationError):
        Webhook(foreign).verify(BODY, headers)


@pytest.mark.parametrize(
    "change",
    [
        {"body": BODY + b" "},
        {"webhook-id": "e2"},
        {"shift": -1},
        {"age": 360},
        {"age": -360},
    ],
    ids=str,
)
def test_tampered_and_old_messages_are_refused(change: dict[str, Any]) -> None:
    secret, change = make_secret(), {**change}
    headers = signature_headers([secret], "e1", int(time.time()) - change.pop("age", 0), BODY)
    body, shift = change.pop("body", BODY), change.pop("shift", 0)
    if shift:
        change["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) + shift)
    if change or body != BODY:
        Webhook(secret).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers | change)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_no ba?se64",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_malformed_secrets(text: str) -> None:
    with pytest.raises(ValueError, match=r"secret|base64") as caught:
        parse_secret(text)
    assert len(text) < 7 or text[6:] not in str(caught.value)


def test_secrets_of_a_file() -> None:
    first, second, third = make_secret(), make_secret(), make_secret()
    assert parse_secrets(f"{first}\n{second}\n") == (first, second)
    for text in ("", f"{first} {second} {third}"):
        with pytest.raises(ValueError, match="one secret"):
            parse_secrets(text)


def test_an_id_with_a_dot_is_refused() -> None:
    with pytest.raises(ValueError, match="no dot"):
        sign(make_secret(), "a.b", 1, b"")
