"""services.upload.content_types: which media type a file gets."""

import pytest

from services.common.errors import BadRequest
from services.upload.content_types import resolve_content_type


@pytest.mark.parametrize(
    ("stated", "name", "found"),
    [
        ("video/mp4", "a.webm", "video/mp4"),
        ("", "a.webm", "video/webm"),
        ("application/octet-stream", "a.WEBM", "video/webm"),
        ("Application/Octet-Stream; x=y", "a.mp4", "video/mp4"),
        ("", "a", "application/octet-stream"),
        ("", "webm", "application/octet-stream"),
        ("", ".webm", "video/webm"),
        ("", "a.tar.gz", "application/gzip"),
        ("", "a.unheard-of", "application/octet-stream"),
        ("text/html; charset=utf-8", "a", "text/html; charset=utf-8"),
        (" video/mp4 ", "a", "video/mp4"),
        ("video/webm;codecs=vp8,opus", "a", "video/webm"),
        ('video/mp4 ; codecs="avc1, mp4a"', "a", "video/mp4"),
        ("video/webm;, text/html", "a", "video/webm"),
        ("application/octet-stream;,text/html", "a.mp4", "video/mp4"),
        ("video/*", "a.mp4", "video/mp4"),
        ("*/*", "a.webm", "video/webm"),
        ("multipart/form-data; boundary=x", "a.mp4", "video/mp4"),
        ("multipart/mixed", "a", "application/octet-stream"),
        ("application/x-www-form-urlencoded", "a.mp4", "video/mp4"),
        ("binary/octet-stream", "a.mp4", "video/mp4"),
        ("image", "a.mp4", "video/mp4"),
        ("undefined", "a.mp4", "video/mp4"),
        ("null", "a", "application/octet-stream"),
        ("false; charset=utf-8", "a.mp4", "video/mp4"),
        ("mp4", "a.mp4", "video/mp4"),
        ("application/force-download", "a.mp4", "video/mp4"),
        ("Application/Unknown", "a.mp4", "video/mp4"),
        ("image/*", "a.unheard-of", "application/octet-stream"),
        ("application/x-protobuf", "a.mp4", "application/x-protobuf"),
        ("", "a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("", "a.ODS", "application/vnd.oasis.opendocument.spreadsheet"),
        ("", "a.ttml", "application/ttml+xml"),
        ("", "a.ass", "text/x-ssa"),
        ("", "a.mpd", "application/dash+xml"),
        ("", "a.m3u", "audio/x-mpegurl"),
        ("", "a.py", "text/x-python"),
        ("", "a.rs", "text/x-rust"),
    ],
)
def test_detected_content_type(stated: str, name: str, found: str) -> None:
    assert resolve_content_type(stated, name) == found


@pytest.mark.parametrize(
    "stated",
    [
        "a/",
        "/b",
        "a/b/c",
        "a b/c",
        "text/html\r\nx: y",
        "text/html; \x00",
        "a/" + "b" * 255,
        "ä/b",
        "a/b,c/d",
        ",",
        "a b",
        "undefined, null",
        ";",
    ],
)
def test_invalid_media_types(stated: str) -> None:
    with pytest.raises(BadRequest):
        resolve_content_type(stated, "a")
