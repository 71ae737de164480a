"""gateway.cors: response headers for cross-origin requests, and replies to preflights."""

import pytest

from gateway import cors
from services.common.http.origins import OriginPolicy


def make_headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


@pytest.mark.parametrize(
    ("setting", "origin", "expected"),
    [
        ("", "http://b.example", {}),
        ("http://b.example", None, {b"vary": b"Origin"}),
        ("http://b.example", "http://evil.example", {b"vary": b"Origin"}),
        (
            "http://b.example",
            "http://b.example",
            {b"access-control-allow-origin": b"http://b.example", b"vary": b"Origin"}
            | {b"access-control-expose-headers": cors.EXPOSED_HEADERS},
        ),
        (
            "*",
            "http://evil.example",
            {b"access-control-allow-origin": b"*", b"access-control-expose-headers": cors.EXPOSED_HEADERS},
        ),
        ("*", None, {}),
    ],
)
def test_cors_response_headers(setting: str, origin: str | None, expected: dict[bytes, bytes]) -> None:
    headers = cors.response_headers(make_headers(origin=origin) if origin else [], OriginPolicy(setting))
    assert dict(headers) == expected


def test_preflight_allows_methods_and_the_requested_headers() -> None:
    request_headers = make_headers(access_control_request_headers="tus-resumable,upload-offset")
    assert dict(cors.preflight_headers(request_headers, "PATCH, OPTIONS")) == {
        b"access-control-allow-methods": b"PATCH, OPTIONS",
        b"access-control-allow-headers": b"tus-resumable,upload-offset",
        b"access-control-max-age": cors.PREFLIGHT_MAX_AGE,
    }
    odd = make_headers(access_control_request_headers="a b, c\td")
    assert b"access-control-allow-headers" not in dict(cors.preflight_headers(odd, "GET"))
