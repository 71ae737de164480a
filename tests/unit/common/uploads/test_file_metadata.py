"""services.common.uploads.file_metadata: what is kept of the fields that mean nothing to us, and how much of it."""

import json

import pytest

from services.common.errors import ContentTooLarge
from services.common.media import NO_METADATA
from services.common.uploads.file_metadata import MAX_FILE_METADATA_BYTES, MAX_FILE_METADATA_KEYS, encode_file_metadata


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({}, {}),
        ({"title": "Été", "$set": "{}", "a.b": "", "__proto__": "x"}, None),
        ({"relativePath": "null", "name": "v.mp4"}, {"name": "v.mp4"}),
        ({"_charset_": "utf-8", "Submit": "Upload", "button": ""}, {}),
        ({"nullable": "nullable", "submitted": "yes", "NULL": "NULL"}, None),
        ({"quote": '"\\\n\x00'}, None),
    ],
)
def test_what_is_kept(values: dict[str, str], kept: dict[str, str] | None) -> None:
    assert json.loads(encode_file_metadata(values)) == (values if kept is None else kept)


def test_no_metadata_has_one_form() -> None:
    assert encode_file_metadata({"submit": "Upload"}) == NO_METADATA


def test_the_limit_is_of_the_json_object_in_utf_8() -> None:
    overhead = len('{"a":""}')
    assert len(encode_file_metadata({"a": "é" * ((MAX_FILE_METADATA_BYTES - overhead) // 2)})) > 8000
    for value in ("x" * (MAX_FILE_METADATA_BYTES - overhead + 1), "é" * 8192, "\x00" * 2731):
        with pytest.raises(ContentTooLarge, match="16384 bytes"):
            encode_file_metadata({"a": value})


def test_the_number_of_keys_counts_those_that_are_kept() -> None:
    values = {f"k{number}": "" for number in range(MAX_FILE_METADATA_KEYS)}
    encode_file_metadata({**values, "submit": "x", "k": "null"})
    with pytest.raises(ContentTooLarge, match="64 keys"):
        encode_file_metadata({**values, "k": ""})
