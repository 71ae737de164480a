"""gateway.forwarded: address, scheme and host of a client behind trusted proxies."""

import pytest

from gateway.forwarded import Client, parse_networks, resolve_client

TRUSTED = parse_networks("10.0.0.0/8, 192.168.1.1, fd00::/8")


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
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
def test_client_address_behind_a_proxy(peer: str, headers: dict[str, str], client: Client) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert resolve_client(peer, "http", fields, TRUSTED) == client
    assert resolve_client(peer, "http", fields, ()) == Client(peer, "http")
