"""services.common.media_path: one path address for each legal name, and what is refused."""

import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.routes import match_route
from services.common.errors import BadRequest
from services.common.media import MediaName, validate_media_name
from services.common.media_path import PATH_TEMPLATE, media_path, parse_media_path

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)


@given(st.lists(TEXT, max_size=3), TEXT)
def test_every_legal_name_has_an_address_that_leads_to_it(folders: list[str], filename: str) -> None:
    try:
        name = validate_media_name("/".join(folders), filename)
    except BadRequest:
        assume(False)
    path = media_path(name)
    assert re.fullmatch(r"/files(/[A-Za-z0-9._~%-]+)+", path)
    assert parse_media_path(path) == name
    assert match_route("GET", path).template == PATH_TEMPLATE


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/files/a.mp4", MediaName("", "a.mp4")),
        ("/files/a/b/c.m3u8", MediaName("a/b", "c.m3u8")),
        ("/files/100%25.mp4", MediaName("", "100%.mp4")),
        ("/files/%2525", MediaName("", "%25")),
        ("/files/a%3Bb.mp4", MediaName("", "a;b.mp4")),
        ("/files/a%20b/%F0%9F%8E%AC.mp4", MediaName("a b", "\U0001f3ac.mp4")),
        ("/files/%61.mp4", MediaName("", "a.mp4")),
        ("/files/%c3%a9", MediaName("", "\xe9")),
        ("/files/e%CC%81", MediaName("", unicodedata.normalize("NFC", "e\u0301"))),
        ("/files/a+b&c=d@e!.mp4", MediaName("", "a+b&c=d@e!.mp4")),
        ("/files/files/files", MediaName("files", "files")),
        ("/files/a%3Fb%23c", MediaName("", "a?b#c")),
        ("/files/...", MediaName("", "...")),
    ],
)
def test_addresses(path: str, name: MediaName) -> None:
    assert parse_media_path(path) == name


@pytest.mark.parametrize(
    "path",
    [
        "/files/",
        "/files/a/",
        "/files//a",
        "/files/a//b",
        "/files/.",
        "/files/../a",
        "/files/%2e%2e/a",
        "/files/a/%2E",
        "/files/a%2Fb",
        "/files/a%2fb",
        "/files/a%5Cb",
        "/files/a%00",
        "/files/a%0Ab",
        "/files/a;b",
        "/files/a;v=1/b",
        "/files/a%",
        "/files/a%2",
        "/files/a%zz",
        "/files/%ff",
        "/files/%c0%af",
        "/files/%ed%a0%80",
        "/files/a\\b",
        '/files/a"b',
        "/files/a^b",
        "/files/a%E2%80%AEb",
        "/files/" + "a" * 256,
        "/files/" + "/".join(["a" * 200] * 6) + "/b",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        parse_media_path(path)
    with pytest.raises(BadRequest):
        match_route("PUT", path)
