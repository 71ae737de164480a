"""The HTTP connection of a client: the server's, with the limits for clients."""

from services.common.http.request_head import RequestHeadValidator
from services.common.server.connection import HTTPConnection
from services.common.server.timeouts import with_send_timeout


class ClientConnection(HTTPConnection):
    """A connection with narrower limits than a service: the gateway adds fields to each head."""

    head_validator = RequestHeadValidator


def connection_class(send_timeout: float) -> type[ClientConnection]:
    """Return the class for the server. `send_timeout` in seconds."""
    return with_send_timeout(ClientConnection, send_timeout)
