"""Requests for lists, and how long answers are kept."""

import pytest

from services.common.errors import BadRequest
from services.common.live.reload import Reload
from services.stream.live.list_requests import (
    ListRequest,
    list_cache_control,
    list_headers,
    media_uri,
    parse_list_request,
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", ListRequest()),
        (b"other=1&other=2", ListRequest()),
        (b"window=600", ListRequest(window=600)),
        (b"window=0", ListRequest(window=0)),
        (b"_HLS_msn=3&window=60&link=v1.k.p.m", ListRequest(Reload(3), 60)),
    ],
)
def test_requests(query: bytes, expected: ListRequest) -> None:
    assert parse_list_request(query) == expected


@pytest.mark.parametrize(
    "query",
    [b"window=", b"window=-1", b"window=1.5", b"window=604801", b"window=1&window=1", b"window=%D9%A1", b"_HLS_msn=a"],
)
def test_what_has_no_meaning(query: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_list_request(query)


def test_the_media_playlist_is_asked_for_as_the_first_list_was() -> None:
    assert media_uri(ListRequest(), "") == "media.m3u8"
    assert media_uri(ListRequest(window=0), "v1.a.b.c") == "media.m3u8?window=0&link=v1.a.b.c"


@pytest.mark.parametrize(
    ("target", "reload", "ended", "expected"),
    [
        (2, Reload(), False, b"public, max-age=1"),
        (6, Reload(skip=True), False, b"public, max-age=3"),
        (1, Reload(), False, b"no-cache"),
        (2, Reload(7), False, b"public, max-age=12"),
        (1, Reload(), True, b"public, max-age=6"),
    ],
)
def test_how_long_a_list_is_kept(target: int, reload: Reload, ended: bool, expected: bytes) -> None:  # a table
    assert list_cache_control("public", target, reload, ended=ended) == expected


def test_fields_of_a_list() -> None:
    plain, packed = dict(list_headers(5, b"no-store", gzip=False)), dict(list_headers(5, b"no-store", gzip=True))
    assert plain[b"content-length"] == b"5"
    assert plain[b"vary"] == b"accept-encoding"
    assert set(packed.items()) - set(plain.items()) == {(b"content-encoding", b"gzip")}
