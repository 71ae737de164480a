"""services.common.media_path: one path address for each legal name, and what is refused."""

import re
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.routes import match_route
from services.common.errors import BadRequest
from services.common.media import MediaName, validate_media_name
from services.common.media_path import PATH_TEMPLATE, media_path, parse_media_path
from tests.support.media_names import AWKWARD_NAMES, REFUSED_PATHS, media_names

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
        ("/files/a[1]|b.ts", MediaName("", "a[1]|b.ts")),
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


@pytest.mark.parametrize(("path", "fault"), REFUSED_PATHS)
def test_refusal_names_the_fault(path: str, fault: str) -> None:
    with pytest.raises(BadRequest, match=fault):
        match_route("GET", path)


@pytest.mark.parametrize("filename", AWKWARD_NAMES)
def test_awkward_names_have_an_address(filename: str) -> None:
    name = validate_media_name(f"x/{filename}", filename)
    assert parse_media_path(media_path(name)) == name


@given(media_names(), media_names())
def test_two_names_have_two_addresses(one: MediaName, other: MediaName) -> None:
    assert (media_path(one) == media_path(other)) == (one == other)


@given(media_names(), st.sampled_from(["", "!'()*", "!$&'()*+,=:@", "!$&'()*+,=:@[]|"]))
def test_clients_that_encode_more_or_less_reach_the_same_file(name: MediaName, kept: str) -> None:
    """encodeURIComponent, browsers and curl leave different characters as they are."""
    folder = "".join(f"{quote(segment, safe=kept)}/" for segment in name.folder.split("/") if segment)
    path = f"/files/{folder}{quote(name.filename, safe=kept)}"
    assert parse_media_path(path) == name
    assert parse_media_path(path.replace("%C3", "%c3").replace("%E", "%e")) == name


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60))
@example("%2e%2e%2fx")
def test_accepted_path_names_one_file_and_nothing_is_decoded_twice(rest: str) -> None:
    try:
        name = parse_media_path(f"/files/{rest}")
    except BadRequest:
        return
    assert parse_media_path(media_path(name)) == name
    assert name.folder.count("/") + bool(name.folder) == rest.count("/")
    if "%" not in rest:
        assert rest == f"{name.folder}/{name.filename}".lstrip("/")
