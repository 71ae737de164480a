"""Which origins' pages may open a WebSocket or read a response. The gateway checks it first, and the socket service again.

CORS does not cover WebSockets: a browser connects from any page and sends the cookies of our origin (RFC 6455, 10.2).
"""

from urllib.parse import urlsplit

from services.common.errors import Forbidden


class OriginPolicy:
    """The origins whose pages may connect and read responses, beside the server's own."""

    def __init__(self, allowed_origins: str) -> None:
        """Parse origins separated by commas; `*` allows all."""
        self.allowed_origins = frozenset(one.strip().lower() for one in allowed_origins.split(",") if one.strip())

    def allows(self, origin: str) -> bool:
        """Return whether the settings allow pages of `origin`."""
        return "*" in self.allowed_origins or origin.lower() in self.allowed_origins

    def check_websocket_origin(self, origin: str | None, host: str | None, *, has_cookies: bool) -> None:
        """Raise Forbidden if a page may not open a WebSocket. `host` is the request's Host.

        A client without an Origin is not a browser and may connect, unless it sends cookies.
        """
        if origin is None:
            if has_cookies and "*" not in self.allowed_origins:
                raise Forbidden("a request with cookies requires an Origin header")
        elif not self.allows(origin) and not _is_same_host(origin, host):
            raise Forbidden("origin not allowed")


def _is_same_host(origin: str, host: str | None) -> bool:
    try:
        authority = urlsplit(origin).netloc
    except ValueError:  # an unbalanced bracket
        return False
    return bool(authority) and bool(host) and authority.lower() == str(host).lower()
