"""gateway.cors: response headers for cross-origin requests, and replies to preflights."""

import pytest

from gateway import cors
from services.common.http.origins import OriginPolicy


def make_headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


SAME_ORIGIN = {b"cross-origin-resource-policy": b"same-origin"}
CROSS_ORIGIN = {b"cross-origin-resource-policy": b"cross-origin"}
VARY = {b"vary": b"Origin"}
EXPOSED = {b"access-control-expose-headers": cors.EXPOSED_HEADERS}


@pytest.mark.parametrize(
    ("setting", "fields", "expected"),
    [
        ("", {}, SAME_ORIGIN),
        ("", {"origin": "http://b.example"}, SAME_ORIGIN),
        ("", {"referer": "http://b.example/"}, SAME_ORIGIN),
        ("http://b.example", {}, SAME_ORIGIN | VARY),
        ("http://b.example", {"origin": "http://evil.example"}, SAME_ORIGIN | VARY),
        ("http://b.example", {"origin": "null"}, SAME_ORIGIN | VARY),
        (
            "http://b.example",
            {"origin": "http://b.example"},
            {b"access-control-allow-origin": b"http://b.example"} | EXPOSED | CROSS_ORIGIN | VARY,
        ),
        (
            "http://b.example:80",
            {"origin": "http://b.example"},
            {b"access-control-allow-origin": b"http://b.example"} | EXPOSED | CROSS_ORIGIN | VARY,
        ),
        # An image or a script has no Origin.
        ("http://b.example", {"referer": "http://b.example/"}, CROSS_ORIGIN | VARY),
        ("http://b.example", {"referer": "http://b.example:80/page?q"}, CROSS_ORIGIN | VARY),
        ("http://b.example", {"referer": "http://evil.example/http://b.example/"}, SAME_ORIGIN | VARY),
        ("http://b.example", {"referer": "http://b.example/", "origin": "http://evil.example"}, SAME_ORIGIN | VARY),
        ("*", {"origin": "http://evil.example"}, {b"access-control-allow-origin": b"*"} | EXPOSED | CROSS_ORIGIN),
        ("*", {}, CROSS_ORIGIN),
        ("*", {"referer": "http://evil.example/"}, CROSS_ORIGIN),
    ],
)
def test_response_headers(setting: str, fields: dict[str, str], expected: dict[bytes, bytes]) -> None:
    origins, headers = OriginPolicy(setting), make_headers(**fields)
    added = cors.response_headers(headers, origins)
    assert dict(added) == expected
    assert len(added) == len(expected)
    assert cors.has_cors_headers(headers, origins) == (b"access-control-allow-origin" in expected)


def test_preflight_allows_methods_and_the_requested_headers() -> None:
    request_headers = make_headers(access_control_request_headers="tus-resumable,upload-offset")
    assert dict(cors.preflight_headers(request_headers, "PATCH, OPTIONS")) == {
        b"access-control-allow-methods": b"PATCH, OPTIONS",
        b"access-control-allow-headers": b"tus-resumable,upload-offset",
        b"access-control-max-age": cors.PREFLIGHT_MAX_AGE,
    }
    odd = make_headers(access_control_request_headers="a b, c\td")
    assert b"access-control-allow-headers" not in dict(cors.preflight_headers(odd, "GET"))
