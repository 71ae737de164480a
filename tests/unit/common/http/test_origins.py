"""services.common.http.origins: which pages may change state and open a WebSocket."""

import pytest

from services.common.errors import Forbidden
from services.common.http.headers import Header
from services.common.http.origins import OriginPolicy, is_own_origin


def is_allowed(setting: str, *fields: Header, forwarded_host: str | None = None, https: bool = False) -> bool:
    headers = [(b"host", b"a.example"), *fields]
    try:
        OriginPolicy(setting).check_request(headers, forwarded_host, https=https)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("", None, True),
        ("", b"http://a.example", True),
        ("", b"https://A.example", True),
        ("", b"http://a.example:81", False),
        ("", b"http://evil.example", False),
        ("", b"http://a.example.evil", False),
        ("", b"http://evil.a.example", False),
        ("", b"null", False),
        ("", b"", False),
        ("", b"file://", False),
        ("", b"app://a.example", False),
        ("", b"http://a.example/", False),
        ("", b"http://a.example http://evil.example", False),
        ("", b"http://a.example@evil.example", False),
        ("", b"http://evil.example#http://a.example", False),
        ("", b"http://[", False),
        ("https://b.example, https://c.example", b"https://c.example", True),
        ("https://b.example", b"https://b.example:443", True),
        ("https://b.example:443/", b"https://B.example", True),
        ("https://b.example", b"wss://b.example", True),
        ("https://b.example", b"https://b.example:8443", False),
        ("https://b.example", b"http://b.example", False),
        ("https://b.example", b"http://b.example:443", False),
        ("app://b", b"app://b", True),
        ("app://b", b"app://c", False),
        ("null", b"null", True),
        ("*", b"http://evil.example", True),
        ("*", b"null", True),
    ],
)
def test_allowed_origins(setting: str, origin: bytes | None, *, allowed: bool) -> None:
    assert is_allowed(setting, *([(b"origin", origin)] if origin is not None else [])) is allowed


@pytest.mark.parametrize("origin", [None, b"http://a.example"])
def test_cookies_say_nothing(origin: bytes | None) -> None:
    """They are those of a balancer: no request is refused or allowed for them."""
    cookies: Header = (b"cookie", b"AWSALB=1")
    assert is_allowed("", cookies, *([(b"origin", origin)] if origin else []))
    assert not is_allowed("", cookies, (b"origin", b"http://evil.example"))


@pytest.mark.parametrize(
    ("origin", "site", "allowed"),
    [
        (None, b"cross-site", False),
        (None, b"same-site", False),
        (None, b"same-origin", True),
        (None, b"none", True),
        (None, b"something-new", False),
        (b"http://evil.example", b"cross-site", False),
        (b"null", b"cross-site", False),
        # A page with `Referrer-Policy: no-referrer` posts its own form.
        (b"null", b"same-origin", True),
        # A proxy that replaces Host.
        (b"https://public.example", b"same-origin", True),
        # A redirect chain that led through another site: Host alone would allow it.
        (b"http://a.example", b"cross-site", False),
        (b"https://b.example", b"cross-site", True),
        (b"https://b.example", b"same-site", True),
    ],
)
def test_sec_fetch_site_decides_where_it_is(origin: bytes | None, site: bytes, *, allowed: bool) -> None:
    fields: list[Header] = [(b"sec-fetch-site", site), *([(b"origin", origin)] if origin else [])]
    assert is_allowed("https://b.example", *fields) is allowed
    assert is_allowed("*", *fields)


def test_repeated_fields_must_all_be_allowed() -> None:
    own, foreign = (b"origin", b"http://a.example"), (b"origin", b"http://evil.example")
    assert not is_allowed("", own, foreign)
    assert not is_allowed("", foreign, own)
    assert not is_allowed("http://a.example", own, foreign)
    assert not is_allowed("", own, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site"))


def test_the_host_of_a_trusted_proxy_replaces_host() -> None:
    assert is_allowed("", (b"origin", b"https://public.example"), forwarded_host="public.example", https=True)
    assert not is_allowed("", (b"origin", b"http://a.example"), forwarded_host="public.example")
    assert not is_allowed("", (b"origin", b"http://a.example"), https=True)


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("http://a.example:80", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("https://a.example:443", "a.example", True),
        ("https://a.example:8443", "a.example:8443", True),
        ("https://a.example:8443", "a.example", False),
        ("https://a.example", "a.example:8443", False),
        ("http://a.example", "a.example:443", False),
        ("http://a.example", "a.example:8000", False),
        # TLS ends at a balancer, and a proxy behind it adds the port on which it listens itself.
        ("https://a.example", "a.example:80", True),
        ("https://a.example:8443", "a.example:80", False),
        ("ws://a.example", "a.example:80", True),
        ("wss://a.example:443", "a.example", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[0:0:0:0:0:0:0:1]:80", True),
        ("http://[::1]", "[::2]", False),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://127.0.0.1:8000", "localhost:8000", False),
        ("http://a.example", "", False),
        ("http://a.example", "a.example, b.example", False),
    ],
)
def test_origin_and_host_are_compared_as_origins(origin: str, host: str, *, own: bool) -> None:
    assert is_own_origin(origin, host) is own
    assert is_own_origin(origin.upper(), host.upper()) is own


@pytest.mark.parametrize(
    ("referrer", "allowed"),
    [
        ("https://b.example/", True),
        ("https://b.example:443/page?q=1#f", True),
        ("https://b.example.evil/", False),
        ("https://b.example@evil/", False),
        ("http://b.example/", False),
        ("http://[", False),
        ("", False),
        ("/relative", False),
    ],
)
def test_referrers(referrer: str, *, allowed: bool) -> None:
    assert OriginPolicy("https://b.example").allows_referrer(referrer) is allowed
