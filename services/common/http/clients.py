"""What counts as one client where limits are shared fairly."""

from ipaddress import IPv6Address, ip_address


def client_key(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 /64, the smallest network that one subscriber gets."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}"
