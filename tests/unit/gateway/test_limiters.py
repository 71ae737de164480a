"""Who may come in: origins, rates, tunnels, CORS, and who a client is behind a trusted proxy."""

import pytest

from gateway import cors
from gateway.forwarded import Client, parse_networks, resolve_client
from gateway.limiters import MAX_TRACKED_CLIENTS, ConnectionLimiter, RateLimiter, client_key
from gateway.websocket.relay import ConnectionSlot
from services.common.errors import Forbidden, ServiceUnavailable, TooManyRequests
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


def test_rate_limiter_allows_a_burst_of_twice_the_rate() -> None:
    rate = RateLimiter(8.0)
    for _ in range(16):
        rate.acquire("a", 0.0)
    with pytest.raises(TooManyRequests) as refused:
        rate.acquire("a", 0.0)
    assert refused.value.headers == {"retry-after": "1"}
    rate.acquire("b", 0.0)
    for step in range(1, 51):
        rate.acquire("a", step / 8)
    with pytest.raises(TooManyRequests):
        rate.acquire("a", 50.5 / 8)


def test_slow_rate_limiter_reports_retry_after() -> None:
    rate = RateLimiter(0.5)
    rate.acquire("a", 0.0)
    with pytest.raises(TooManyRequests) as refused:
        rate.acquire("a", 0.0)
    assert refused.value.headers == {"retry-after": "2"}
    rate.acquire("a", 2.0)


def test_rate_limiter_remembers_a_bounded_number_of_clients() -> None:
    rate = RateLimiter(1.0)
    for number in range(MAX_TRACKED_CLIENTS + 100):
        rate.acquire(str(number), 0.0)
    assert len(rate._buckets) == MAX_TRACKED_CLIENTS


def test_connections_are_limited_in_total_and_per_client() -> None:
    tunnels = ConnectionLimiter(3, 2)
    first, second = ConnectionSlot(tunnels, "a"), ConnectionSlot(tunnels, "a")
    with pytest.raises(TooManyRequests):
        ConnectionSlot(tunnels, "a")
    third = ConnectionSlot(tunnels, "b")
    with pytest.raises(ServiceUnavailable):
        ConnectionSlot(tunnels, "c")
    first.release()
    first.release()
    ConnectionSlot(tunnels, "a")
    with pytest.raises(ServiceUnavailable):
        ConnectionSlot(tunnels, "a")
    second.release()
    third.release()
    assert "b" not in tunnels._by_client


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("unknown", "unknown", True),
        ("a:b", "a:b", True),
    ],
)
def test_client_key_groups_addresses(one: str, other: str, *, same: bool) -> None:
    assert (client_key(one) == client_key(other)) is same


TRUSTED = parse_networks("10.0.0.0/8, 192.168.1.1, fd00::/8")


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("1.2.3.4", {"x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https"}, Client("1.2.3.4", "http")),
        ("10.0.0.1", {}, Client("10.0.0.1", "http")),
        ("10.0.0.1", {"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https"}, Client("1.2.3.4", "https")),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, 1.2.3.4, 10.9.9.9"}, Client("1.2.3.4", "http")),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, evil, 10.9.9.9"}, Client("10.9.9.9", "http")),
        ("10.0.0.1", {"x-forwarded-for": "evil"}, Client("10.0.0.1", "http")),
        ("10.0.0.1", {"x-forwarded-proto": "gopher", "x-forwarded-host": "a/b"}, Client("10.0.0.1", "http")),
        ("10.0.0.1", {"x-forwarded-host": "media.example:443"}, Client("10.0.0.1", "http", "media.example:443")),
        ("fd00::1", {"x-forwarded-for": "2001:db8::1"}, Client("2001:db8::1", "http")),
        ("unknown", {"x-forwarded-for": "6.6.6.6"}, Client("unknown", "http")),
        ("10.0.0.1", {"x-forwarded-for": "fe80::1%é"}, Client("10.0.0.1", "http")),
        ("10.0.0.1", {"x-forwarded-for": "fe80::1%eth0"}, Client("10.0.0.1", "http")),
    ],
)
def test_client_address_behind_a_proxy(peer: str, said: dict[str, str], client: Client) -> None:
    fields = [(name.encode(), value.encode()) for name, value in said.items()]
    assert resolve_client(peer, "http", fields, TRUSTED) == client
    assert resolve_client(peer, "http", fields, ()) == Client(peer, "http")


def make_headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


@pytest.mark.parametrize(
    ("setting", "origin", "told"),
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
def test_cors_response_headers(setting: str, origin: str | None, told: dict[bytes, bytes]) -> None:
    made = cors.response_headers(make_headers(origin=origin) if origin else [], OriginPolicy(setting))
    assert dict(made) == told


def test_preflight_allows_methods_and_the_requested_headers() -> None:
    asked = make_headers(access_control_request_headers="tus-resumable,upload-offset")
    assert dict(cors.preflight_headers(asked, "PATCH, OPTIONS")) == {
        b"access-control-allow-methods": b"PATCH, OPTIONS",
        b"access-control-allow-headers": b"tus-resumable,upload-offset",
        b"access-control-max-age": cors.PREFLIGHT_MAX_AGE,
    }
    odd = make_headers(access_control_request_headers="a b, c\td")
    assert b"access-control-allow-headers" not in dict(cors.preflight_headers(odd, "GET"))
