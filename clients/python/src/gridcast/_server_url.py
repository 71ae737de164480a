"""The URL of a server: an http or https origin. Credentials do not belong into it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from gridcast.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """`origin` is http(s)://host:port, `websocket` the same with ws(s)."""

    origin: str

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.origin.startswith("https:")

    @property
    def websocket(self) -> str:
        """The origin for WebSockets."""
        return self.origin.replace("http", "ws", 1)


def parse_server_url(url: str) -> ServerUrl:
    """Return the URL of a server.

    Raises:
        InvalidRequest: not http or https, or with a user, a path, a query or a fragment. The text does not quote it.

    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise InvalidRequest("the URL of the server is malformed") from None
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise InvalidRequest("the URL of the server begins with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("the URL of the server holds no user and no password: give a token")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise InvalidRequest("the URL of the server has no path: only http(s)://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return ServerUrl(f"{parts.scheme.lower()}://{host}{f':{port}' if port is not None else ''}")
