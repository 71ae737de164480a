"""Resolves a client's address, scheme and host: from its connection, or from the X-Forwarded-* headers of a trusted proxy.

Without trusted proxies these headers are ignored, because a client may set them to anything.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from services.common.http.headers import Header

IPNetwork = IPv4Network | IPv6Network

_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class Client(NamedTuple):
    """A client, as the upstream sees it in X-Forwarded-*."""

    address: str
    scheme: str = "http"
    host: str | None = None
    """The host that a trusted proxy reports (X-Forwarded-Host); None: the Host header."""


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Parse addresses and networks, separated by commas. Raises ValueError, which names the place and does not quote the text."""
    networks = []
    for number, part in enumerate(text.split(","), 1):
        if part.strip():
            try:
                networks.append(ip_network(part.strip()))
            except ValueError:
                raise ValueError(f"entry {number} is no IP address and no network without host bits") from None
    return tuple(networks)


def resolve_client(peer: str, scheme: str, fields: Iterable[Header], trusted: Sequence[IPNetwork]) -> Client:
    """Return the client behind a connection from the address `peer`.

    A trusted proxy appends the address it saw to X-Forwarded-For. So the client is the last address that is not a trusted proxy;
    the client may have written those before it.
    """
    if not is_trusted_proxy(peer, trusted):
        return Client(peer, scheme)
    values: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": [], b"x-forwarded-host": []}
    for name, value in fields:
        if name in values:
            values[name] += (part.strip() for part in value.decode("latin-1").split(","))
    address = peer
    for hop in reversed(values[b"x-forwarded-for"]):
        if not _is_address(hop):
            break
        address = hop
        if not _in_networks(hop, trusted):
            break
    proto = values[b"x-forwarded-proto"][-1:]
    hosts = [host for host in values[b"x-forwarded-host"][-1:] if _HOST_AND_PORT.fullmatch(host)]
    return Client(address, proto[0] if proto and proto[0] in {"http", "https"} else scheme, hosts[0] if hosts else None)


def is_trusted_proxy(peer: str, trusted: Sequence[IPNetwork]) -> bool:
    """Whether X-Forwarded-* and X-Request-ID are trusted on a connection from the address `peer`."""
    return bool(trusted) and _in_networks(peer, trusted)


def _is_address(text: str) -> bool:
    if "%" in text:  # a zone has a meaning on its own machine only, and Python accepts any characters in it
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _in_networks(text: str, trusted: Sequence[IPNetwork]) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in trusted)
