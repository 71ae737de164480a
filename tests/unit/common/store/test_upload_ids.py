"""services.common.store.upload_ids: the form of an id, and its secret."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.store.upload_ids import (
    UploadId,
    digest_secret,
    format_upload_id,
    make_secret,
    parse_upload_id,
    secret_of,
)
from services.upload.tus.headers import parse_concat

MEDIA, RECORD = "6927d1c0a1b2c3d4e5f60718", "6927d1c0a1b2c3d4e5f60719"


def test_a_secret_has_128_random_bits() -> None:
    made = [make_secret() for _ in range(2000)]
    assert all(re.fullmatch("[0-9a-f]{32}", secret) for secret in made)
    assert len(set(made)) == len(made)
    # Each bit is sometimes set and sometimes not: none is fixed, and none follows from a counter.
    values = [int(secret, 16) for secret in made]
    for bit in range(128):
        assert 700 < sum(value >> bit & 1 for value in values) < 1300


def test_an_id_is_read_as_it_was_written() -> None:
    secret = make_secret()
    text = format_upload_id(MEDIA, RECORD, secret)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert parse_upload_id(text) == UploadId(MEDIA, RECORD, digest)
    assert (secret_of(text), digest_secret(secret)) == (secret, digest)
    concat = parse_concat(f"final;/file/tus/{text}")
    assert concat is not None
    assert concat.part_ids == (text,)


def test_an_id_without_a_secret_is_that_of_an_older_upload() -> None:
    text = format_upload_id(MEDIA, RECORD, "")
    assert text == f"{MEDIA}-{RECORD}"
    assert parse_upload_id(text) == UploadId(MEDIA, RECORD, None)
    assert secret_of(text) == ""


@pytest.mark.parametrize("text", ["", "0" * 23, "0" * 25, "A" * 24, "\u0660" * 24, "0" * 24 + "\n", "../" * 8])
def test_other_texts_are_no_ids(text: str) -> None:
    secret = "0" * 32
    for other in (f"{text}-{text}", f"{MEDIA}-{text}", f"{text}-{RECORD}-{secret}", f"{MEDIA}-{RECORD}-{text}"):
        assert parse_upload_id(other) is None
    for other in (
        f"{MEDIA}-{RECORD}-",
        f"{MEDIA}-{RECORD}-{secret}0",
        f"{MEDIA}-{RECORD}-{secret}-",
        f"{MEDIA}{RECORD}",
    ):
        assert parse_upload_id(other) is None


@given(st.text(max_size=100))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    found = parse_upload_id(text)
    assert found is None or text.startswith(f"{found.media_id}-{found.record_id}")
