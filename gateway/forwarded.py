"""Who asks: address, scheme and host of a client, from its connection, or from the proxy before us when that one is trusted.

Pure. Without trusted proxies nothing that a client says about itself is believed.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from services.common.http.headers import Header

IPNetwork = IPv4Network | IPv6Network

_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class Client(NamedTuple):
    """What services are told of a client. `host`: what it asked a trusted proxy for, where that differs from its Host field."""

    address: str
    scheme: str = "http"
    host: str | None = None


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Addresses and networks separated by commas. Raises ValueError."""
    return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())


def resolve_client(peer: str, scheme: str, fields: Iterable[Header], trusted: Sequence[IPNetwork]) -> Client:
    """The client behind a connection from `peer`.

    A trusted proxy appends the address it saw to X-Forwarded-For, so the last one that is no trusted proxy is the client; what
    stands before it the client may have written itself.
    """
    if not is_trusted_proxy(peer, trusted):
        return Client(peer, scheme)
    said: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": [], b"x-forwarded-host": []}
    for name, value in fields:
        if name in said:
            said[name] += (part.strip() for part in value.decode("latin-1").split(","))
    address = peer
    for hop in reversed(said[b"x-forwarded-for"]):
        if not _is_address(hop):
            break
        address = hop
        if not _in_networks(hop, trusted):
            break
    proto = said[b"x-forwarded-proto"][-1:]
    hosts = [one for one in said[b"x-forwarded-host"][-1:] if _HOST_AND_PORT.fullmatch(one)]
    return Client(address, proto[0] if proto and proto[0] in {"http", "https"} else scheme, hosts[0] if hosts else None)


def is_trusted_proxy(peer: str, trusted: Sequence[IPNetwork]) -> bool:
    """Whether what a connection from `peer` says of its client is believed."""
    return bool(trusted) and _in_networks(peer, trusted)


def _is_address(text: str) -> bool:
    if "%" in text:  # a zone is known to its own machine only, and Python takes any characters for one
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
