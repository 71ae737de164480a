"""The modes of authentication, and the rule that an open instance is reached from its own machine alone. Pure."""

from ipaddress import IPv6Address, ip_address
from typing import Literal

AuthMode = Literal["off", "hs256", "jwks"]


def check_open_mode(mode: AuthMode, public_address: str, *, allow_open: bool) -> None:
    """Refuse to run without authentication where other machines reach this instance.

    Arguments:
        mode: the mode of authentication.
        public_address: the address at which clients reach the gateway, without a port.
        allow_open: whether the operator insists on an open instance.

    Raises:
        ValueError: with the sentence that says what to set.

    """
    if mode == "off" and not allow_open and not is_loopback(public_address):
        raise ValueError(
            f"authentication is off, but clients reach this instance at {public_address}: set GRIDCAST_AUTH=hs256 and "
            "GRIDCAST_AUTH_SECRET (docs/auth.md), or publish it at 127.0.0.1 only; GRIDCAST_AUTH_ALLOW_OPEN=1 leaves it open to all"
        )


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches `address`: `localhost`, or an IP address, in brackets or not."""
    name = address.strip().lower()
    if name == "localhost":
        return True
    try:
        ip = ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback
