"""Which addresses a webhook may be sent to: the defence against requests into the network of the server (SSRF). Pure.

Judged is the address that a connection is made to, after the name was resolved: names, CNAMEs and the spellings of numbers that a
resolver accepts (`0177.1`, `2130706433`) are all addresses then. IPv6 addresses that contain an IPv4 address are refused, and those
that are one (`::ffff:10.0.0.1`) are judged as it.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_PRIVATE = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"),
    )
)
"""Of this machine, of its network, and of a provider's network (RFC 1918, 4193, 6598)."""
_NEVER = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network
            "169.254.0.0/16",  # link-local, metadata of clouds among it
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast among it
            "::/96",  # unspecified, and IPv4-compatible
            "::ffff:0:0:0/96",  # IPv4-translated
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",
            "100::/64",  # discard
            "2001::/23",  # protocol assignments, Teredo among it
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local
            "ff00::/8",  # multicast
        ),
    )
)


def why_forbidden(address: str, *, allow_private: bool) -> str | None:
    """Return why nothing may be sent to an IP address, None where it may. `allow_private`: for what the operator has set."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return "not an IP address"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(_contains(network, ip) for network in _PRIVATE):
        return None if allow_private else "a private address"
    if any(_contains(network, ip) for network in _NEVER):
        return "an address that is not of the internet"
    return None


def _contains(network: IPv4Network | IPv6Network, ip: object) -> bool:
    return ip in network  # False for the other version


def choose_address(addresses: Iterable[str], *, allow_private: bool) -> str:
    """Return the address to connect to, the first. Raises ValueError where there is none, or one of them is forbidden.

    One that is forbidden refuses all: a name that has both kinds of addresses is an attack or a mistake.
    """
    found = list(addresses)
    if not found:
        raise ValueError("the host has no address")
    for address in found:
        if (reason := why_forbidden(address, allow_private=allow_private)) is not None:
            raise ValueError(f"the host resolves to {reason}")
    return found[0]
