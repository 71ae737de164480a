"""Whose pages may open a WebSocket or read an answer. Pure; the gateway asks at the door, and the socket service once more.

No CORS rule covers WebSockets: a browser connects from any page and sends our cookies along (RFC 6455, 10.2).
"""

from urllib.parse import urlsplit

from services.common.errors import Forbidden


class Origins:
    """The origins whose pages may connect and read answers, beside our own."""

    def __init__(self, text: str) -> None:
        """Origins separated by commas; `*` for all."""
        self.allowed = frozenset(one.strip().lower() for one in text.split(",") if one.strip())

    def allows(self, origin: str) -> bool:
        """Whether pages of another origin were let in by setting."""
        return "*" in self.allowed or origin.lower() in self.allowed

    def check(self, origin: str | None, host: str | None, *, cookies: bool) -> None:
        """Raise Forbidden where a page may not open a WebSocket. `host` is what the browser asked for.

        A client without an origin is no browser and may connect, unless it sends cookies.
        """
        if origin is None:
            if cookies and "*" not in self.allowed:
                raise Forbidden("cookies without an origin")
        elif not self.allows(origin) and not _same(origin, host):
            raise Forbidden("this origin may not connect")


def _same(origin: str, host: str | None) -> bool:
    try:
        authority = urlsplit(origin).netloc
    except ValueError:  # an unbalanced bracket
        return False
    return bool(authority) and bool(host) and authority.lower() == str(host).lower()
