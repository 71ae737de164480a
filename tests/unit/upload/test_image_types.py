"""Types of images by their first bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.upload.image_types import detect_image_type


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "image/avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "image/avif"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif", None),  # the brand is behind the box
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"<!doctype html>GIF89a", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_types(data: bytes, content_type: str | None) -> None:
    assert detect_image_type(data) == content_type


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda tail: b"\0\0\0\x20ftyp" + tail)))
def test_any_bytes_have_a_type_or_none(data: bytes) -> None:
    assert (detect_image_type(data) or "image/x").startswith("image/")
