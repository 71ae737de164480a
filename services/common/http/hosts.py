"""Which names this server answers to, judged by the Host of every request: the defence against DNS rebinding.

A page of attacker.example whose name is made to resolve to the address of this server is of the same origin as this server for the
browser. It can read and write, and neither Origin nor Sec-Fetch-Site shows it. Only Host does: it has the attacker's name.
`localhost` and IP literals are always accepted, because no one can make them resolve to another address.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from services.common.errors import MisdirectedRequest
from services.common.http.headers import Header

DEFAULT_ALLOWED_HOSTS = "localhost,*.localhost"
"""The loopback names: `localhost` and what is below it never leave the machine (RFC 6761, 6.3)."""

_HOST_PORT = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?\Z")
_ALLOWED_HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]{2,45}\]")
_REMEMBERED_HOSTS = 256
"""Accepted values that are remembered: few in practice, and the bound is for clients that vary them."""


class HostPolicy:
    """The host names that a request may name, beside `localhost` and IP literals."""

    def __init__(self, allowed_hosts: str) -> None:
        """Parse names separated by commas; `*.a.example` allows all below a.example, `*` all. Raises ValueError."""
        entries = parse_allowed_hosts(allowed_hosts)
        self.allows_all = "*" in entries
        self._names = frozenset(entry for entry in entries if not entry.startswith("*"))
        self._suffixes = tuple(entry[1:] for entry in entries if entry.startswith("*."))
        self._accepted: set[bytes] = set()

    def check(self, headers: Iterable[Header]) -> None:
        """Raise MisdirectedRequest where Host names another host (RFC 9110, 7.4). HTTP/1.0 may leave it out."""
        if self.allows_all:
            return
        for name, value in headers:
            if name == b"host":
                if value not in self._accepted and not self._accepts(value):
                    raise MisdirectedRequest(
                        "this host name is not allowed in Host: GRIDCAST_ALLOWED_HOSTS lists those that are"
                    )
                return

    def allows(self, host: str) -> bool:
        """Return whether a request may name `host`, a host with or without a port."""
        return self.allows_all or self._accepts(host.encode("latin-1", "replace"))

    def _accepts(self, host: bytes) -> bool:
        accepted = self._judge(host)
        if accepted and len(self._accepted) < _REMEMBERED_HOSTS:
            self._accepted.add(host)
        return accepted

    def _judge(self, host: bytes) -> bool:
        if (match := _HOST_PORT.match(host.decode("latin-1"))) is None:
            return False
        name = match[1].lower()
        if _is_ip_literal(name):
            return True
        name = name.removesuffix(".")  # the root's empty label: the same host
        return name == "localhost" or name in self._names or name.endswith(self._suffixes)


def parse_allowed_hosts(text: str) -> tuple[str, ...]:
    """Return the entries in lower case. Raises ValueError for what is neither a host name, `*` nor `*.` with a name."""
    entries = tuple(entry.strip().lower() for entry in text.split(",") if entry.strip())
    for entry in entries:
        if not _ALLOWED_HOST.fullmatch(entry):
            raise ValueError(f"not a host name without scheme and port, in ASCII: {entry!r}")
    return entries


def _is_ip_literal(name: str) -> bool:
    """Whether a host is an IP address as in a URI (RFC 3986, 3.2.2): four decimal numbers, or IPv6 in brackets."""
    try:
        address = ip_address(name[1:-1] if name.startswith("[") else name)
    except ValueError:
        return False
    return (address.version == 6) == name.startswith("[")
