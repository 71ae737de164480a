"""services.common.http.origins: which pages may open a WebSocket."""

import pytest

from services.common.errors import Forbidden
from services.common.http.origins import OriginPolicy


@pytest.mark.parametrize(
    ("setting", "origin", "cookies", "allowed"),
    [
        ("", "http://a.example", False, True),
        ("", "https://A.example", False, True),
        ("", "http://a.example:81", False, False),
        ("", "http://evil.example", False, False),
        ("", "http://a.example.evil", False, False),
        ("", "null", False, False),
        ("", "", False, False),
        ("", None, False, True),
        ("", None, True, False),
        ("https://b.example, https://c.example", "https://c.example", True, True),
        ("https://b.example", "http://b.example", False, False),
        ("*", "http://evil.example", True, True),
        ("*", None, True, True),
    ],
)
def test_allowed_websocket_origins(setting: str, origin: str | None, *, cookies: bool, allowed: bool) -> None:
    origins = OriginPolicy(setting)
    if allowed:
        origins.check_websocket_origin(origin, "a.example", has_cookies=cookies)
    else:
        with pytest.raises(Forbidden):
            origins.check_websocket_origin(origin, "a.example", has_cookies=cookies)
