"""Which pages may change state, open a WebSocket and read responses: judged by what the browser says of a request.

A page of any origin can post a form, and its request needs no preflight (Fetch, "CORS-safelisted method"). CORS does not cover
WebSockets either (RFC 6455, 10.2). But a browser says where such a request comes from, and no page can change that: `Origin`
(RFC 6454, 7), and to HTTPS and loopback addresses `Sec-Fetch-Site` (Fetch Metadata). The gateway judges both and removes them
from requests that it forwards; the services judge them where they are reached directly, the socket service in each handshake.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import urlsplit

from services.common.errors import Forbidden
from services.common.http.headers import Header

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change no state (RFC 9110, 9.2.1)."""

_LOWER_CASE_HOST = r"([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])"
_SERIALIZED_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_LOWER_CASE_HOST}(?::([0-9]{{1,5}}))?\Z")
_LOWER_CASE_HOST_PORT = re.compile(rf"{_LOWER_CASE_HOST}(?::([0-9]{{1,5}}))?\Z")
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}
"""Clients of WebSockets that are no browsers derive an Origin from their URL."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWN_SITES = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for our own pages, and for what the user started (address bar, bookmark)."""


class Origin(NamedTuple):
    """An origin (RFC 6454, 4). `port` is that of the scheme where the text names none; None where the scheme has none."""

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Parse a serialised origin; None for `null` and for what is no origin."""
    if (match := _SERIALIZED_ORIGIN.match(text.lower())) is None:
        return None
    scheme = _HTTP_SCHEMES.get(match[1], match[1])
    return Origin(scheme, _normalize_host(match[2]), int(match[3]) if match[3] else _DEFAULT_PORTS.get(scheme))


class OriginPolicy:
    """The origins whose pages may use this API, beside the server's own."""

    def __init__(self, allowed_origins: str) -> None:
        """Parse origins separated by commas; `*` allows all."""
        entries = [entry.strip().lower() for entry in allowed_origins.split(",") if entry.strip()]
        self.allows_all = "*" in entries
        self._allowed = frozenset(parse_origin(entry.removesuffix("/")) or entry for entry in entries)

    @property
    def allows_none(self) -> bool:
        """Whether only pages of the server's own origin may use this API."""
        return not self._allowed

    def allows(self, origin: str) -> bool:
        """Return whether the settings allow pages of `origin`. Default ports count as stated."""
        return self.allows_all or (parse_origin(origin) or origin.lower()) in self._allowed

    def allows_referrer(self, referrer: str) -> bool:
        """Return whether the settings allow pages of the origin of this URL, the value of Referer."""
        try:
            scheme, authority, *_ = urlsplit(referrer)
        except ValueError:  # an unbalanced bracket
            return False
        return self.allows(f"{scheme}://{authority}")

    def check_request(
        self, headers: Iterable[Header], forwarded_host: str | None = None, *, https: bool = False
    ) -> None:
        """Raise Forbidden for a request that comes from a page which is neither the server's own nor allowed.

        For requests that change state, and for WebSocket handshakes. Without Origin and Sec-Fetch-Site a request is no browser's:
        no page can leave both out. Cookies say nothing, this API reads none.

        Sec-Fetch-Site decides where there is one: it compares the URLs that the browser used, whatever a proxy wrote into Host.

        Arguments:
            headers: the fields of the request, names in lower case.
            forwarded_host: the host that a trusted proxy reports; None: Host.
            https: whether a trusted proxy says that the client uses HTTPS.

        """
        host = forwarded_host
        origins: list[str] = []
        sites: set[str] = set()
        for name, value in headers:
            if name == b"origin":
                origins.append(value.decode("latin-1"))
            elif name == b"sec-fetch-site":
                sites.add(value.decode("latin-1").lower())
            elif name == b"host" and host is None:
                host = value.decode("latin-1")
        if self.allows_all or (origins and all(self.allows(origin) for origin in origins)):
            return
        if sites <= _OWN_SITES if sites else all(is_own_origin(origin, host or "", https=https) for origin in origins):
            return
        raise Forbidden("pages of this origin may not use this API: GRIDCAST_ALLOWED_ORIGINS lists those that may")


def is_own_origin(origin: str, host: str, *, https: bool = False) -> bool:
    """Return whether `origin` is that of a server which is reached as `host`, a host with or without a port.

    Host has no scheme, and a proxy may have terminated TLS: it is that of `origin`, unless `https` says that it is HTTPS. A host
    without a port has the default one of that scheme. A proxy behind one that terminates TLS adds its own port, 80.
    """
    page, site = parse_origin(origin), _LOWER_CASE_HOST_PORT.match(host.lower())
    if page is None or site is None or page.scheme not in _DEFAULT_PORTS or page.host != _normalize_host(site[1]):
        return False
    if https and page.scheme == "http":
        return False
    port = int(site[2]) if site[2] else _DEFAULT_PORTS[page.scheme]
    return page.port == port or (page.scheme == "https" and (page.port, port) == (443, 80))


def _normalize_host(host: str) -> str:
    """Return a host in lower case, an IPv6 address in its shortest form (RFC 5952)."""
    if not host.startswith("["):
        return host
    try:
        return f"[{IPv6Address(host[1:-1])}]"
    except ValueError:
        return host
