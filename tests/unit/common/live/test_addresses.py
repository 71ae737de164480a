"""Addresses of live streams: each thing has one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.addresses import (
    INDEX_TEMPLATE,
    INIT_TEMPLATE,
    MEDIA_TEMPLATE,
    MESSAGES_TEMPLATE,
    SEGMENT_TEMPLATE,
    LiveAddress,
    live_template,
    parse_live_address,
)

ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("path", "expected", "template"),
    [
        ("index.m3u8", LiveAddress(ID, "index"), INDEX_TEMPLATE),
        ("media.m3u8", LiveAddress(ID, "media"), MEDIA_TEMPLATE),
        ("0/init.mp4", LiveAddress(ID, "init", 0), INIT_TEMPLATE),
        ("12/3456.m4s", LiveAddress(ID, "segment", 12, 3456), SEGMENT_TEMPLATE),
        ("messages", LiveAddress(ID, "messages"), MESSAGES_TEMPLATE),
    ],
)
def test_addresses(path: str, expected: LiveAddress, template: str) -> None:
    assert parse_live_address(f"/live/{ID}/{path}") == expected
    assert live_template(f"/live/{ID}/{path}") == template


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "/messages/",
            "/media",
            "/tus",
            "/key/token/media",
            "/key/token/media/0.m4s",
            "/other.m3u8",
            "/index.m3u8/",
        ),
        *("/00/1.m4s", "/0/01.m4s", "/0/-1.m4s", "/0/1.m4s/", "/0/1.mp4", "/0/init.m4s", "/0/12345678901.m4s"),
        *("/\u0661/1.m4s", "/0/1.m4s\n", "//1.m4s", "/0/../init.mp4"),
    ],
)
def test_what_is_no_address_of_a_viewer(path: str) -> None:
    assert parse_live_address(f"/live/{ID}{path}") is None
    assert live_template(f"/live/{ID}{path}") == f"/live/{ID}{path}"


@pytest.mark.parametrize("stream_id", ["short", "UPPERCASE123", "with-hyphen-in-it", "a" * 65, "0123456789abcde."])
def test_ids_of_another_form(stream_id: str) -> None:
    assert parse_live_address(f"/live/{stream_id}/media.m3u8") is None


@given(st.text(max_size=40))
def test_any_text_is_parsed(text: str) -> None:
    found = parse_live_address(f"/live/{ID}/{text}")
    assert found is None or found.stream_id == ID
