"""The table of WebSocket close codes: why a connection ends, and whether its client should reconnect.

Codes up to 1011 are those of RFC 6455, section 7.4.1; 1012 and 1013 are in IANA's registry of close codes (section 11.7).
docs/messages.md prints the table, and a test compares both.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Disconnect:
    """One way in which a connection ends.

    `code` and `reason` are those of the close frame; the reason is empty where the frame has none, or one of the parser's.
    `reconnect` says whether the client should connect again with its resume secret: it is False where that would fail in the same
    way or take the session from its new connection.
    """

    code: int
    reason: str
    reconnect: bool


# Closed by this service.

TOO_MANY_MESSAGES = Disconnect(1008, "message rate limit exceeded", reconnect=True)
RESUMED_ELSEWHERE = Disconnect(1008, "session resumed elsewhere", reconnect=False)
CLOSED_BY_OPERATOR = Disconnect(1008, "closed by an operator", reconnect=False)
TOKEN_EXPIRED = Disconnect(1008, "token expired", reconnect=True)
TOKEN_REVOKED = Disconnect(1008, "token revoked", reconnect=False)
TOKEN_OF_ANOTHER_SUBJECT = Disconnect(1008, "token of another subject", reconnect=False)
INTERNAL_ERROR = Disconnect(1011, "internal error", reconnect=True)
SERVICE_RESTART = Disconnect(1012, "service restart", reconnect=True)
SLOW_CONSUMER = Disconnect(1013, "slow consumer", reconnect=True)

# Closed by the WebSocket server below it (services/common/server/websocket).

PROTOCOL_ERROR = Disconnect(1002, "", reconnect=False)
INVALID_PAYLOAD = Disconnect(1007, "", reconnect=False)
TOO_MANY_FRAMES = Disconnect(1008, "too many frames", reconnect=True)
MESSAGE_TIMEOUT = Disconnect(1008, "message timeout", reconnect=True)
MESSAGE_TOO_BIG = Disconnect(1009, "", reconnect=False)
PING_TIMEOUT = Disconnect(1011, "keepalive ping timeout", reconnect=True)
SHUTDOWN = Disconnect(1012, "", reconnect=True)

# Not sent by a replica. 1001 comes from a proxy in between; 1005 and 1006 are never in a frame (section 7.4.1).

GOING_AWAY = Disconnect(1001, "", reconnect=True)
NO_STATUS = Disconnect(1005, "", reconnect=True)
ABNORMAL_CLOSURE = Disconnect(1006, "", reconnect=True)
