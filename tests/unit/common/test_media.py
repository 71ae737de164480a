"""services.common.media: file and folder names and their rules."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.common.media import MAX_FOLDER_BYTES, validate_folder, validate_media_name, validate_segment


@pytest.mark.parametrize(
    "name", ["a", "a.webm", "...", "..a", " ", "a b", "日本語.mp4", "$where", "__proto__", "é" * 127, "%2e%2e"]
)
def test_valid_names(name: str) -> None:
    assert validate_media_name("", name).filename == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "../x",
        "a\0",
        "a\n",
        "a\x1b",
        "a\x7f",
        "a\x85",
        "a\u202eb",
        "a\u2066",
        "a\u200bb",
        "\ufeffa",
        "a" * 256,
        "é" * 128,
        "e\u0301" * 128,
        "\ud800",
        "a\u2028b",
    ],
)
def test_invalid_names(name: str) -> None:
    with pytest.raises(BadRequest):
        validate_segment(name, "filename")


def test_unicode_forms_of_one_name_are_equal() -> None:
    """Case 19."""
    assert validate_media_name("e\u0301", "e\u0301") == validate_media_name("\u00e9", "\u00e9")


@pytest.mark.parametrize("folder", ["", "a", "a/b/c", "a b/ä", ".a/..b"])
def test_valid_folders(folder: str) -> None:
    assert validate_folder(folder) == folder


@pytest.mark.parametrize("folder", ["/", "/a", "a/", "a//b", "a/../b", ".", "a\\b", "a/" * 600 + "a", "x" * 10_000])
def test_invalid_folders(folder: str) -> None:
    with pytest.raises(BadRequest):
        validate_folder(folder)


@given(st.text(max_size=300))
def test_accepted_names_are_safe(text: str) -> None:
    try:
        name = validate_segment(text, "filename")
    except BadRequest:
        return
    assert 1 <= len(name.encode()) <= 255
    assert validate_segment(name, "filename") == name
    assert not set(name) & set("/\\\0\r\n")
    assert name not in {".", ".."}
    assert len(validate_folder(name).encode()) <= MAX_FOLDER_BYTES
