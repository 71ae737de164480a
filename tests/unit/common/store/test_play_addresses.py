"""Play addresses: made of an upload's id, checked by what the store keeps of it, and useless for writing."""

import pytest

from services.common.store.play_addresses import make_play_address, parse_play_address
from services.common.store.upload_ids import digest_secret, format_upload_id, make_secret, parse_upload_id

MEDIA, RECORD = "a" * 24, "b" * 24


def test_an_address_is_of_its_upload_alone() -> None:
    secret, other = make_secret(), make_secret()
    text = make_play_address(format_upload_id(MEDIA, RECORD, secret))
    assert text is not None
    address = parse_play_address(text)
    assert address is not None
    assert (address.media_id, address.record_id) == (MEDIA, RECORD)
    assert address.is_of(digest_secret(secret))
    assert not address.is_of(digest_secret(other))
    assert not address.is_of(None)
    assert not address._replace(record_id="c" * 24).is_of(digest_secret(secret))
    assert secret not in text
    assert (digest_secret(secret) or "") not in text
    assert parse_upload_id(text) is not None, "the form is that of an id,"
    assert (parse_upload_id(text) or parse_upload_id("")) != parse_upload_id(format_upload_id(MEDIA, RECORD, secret))


def test_an_upload_without_a_secret_has_no_address() -> None:
    assert make_play_address(format_upload_id(MEDIA, RECORD, "")) is None
    assert make_play_address("nothing") is None


@pytest.mark.parametrize(
    "text", ["", f"{MEDIA}-{RECORD}", f"{MEDIA}-{RECORD}-{'A' * 32}", f"{MEDIA}-{RECORD}-{'0' * 31}\n"]
)
def test_other_texts_are_no_addresses(text: str) -> None:
    assert parse_play_address(text) is None
