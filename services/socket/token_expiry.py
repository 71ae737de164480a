"""Ends the connections whose tokens end: a warning a minute before, 1008 after the leeway; 1008 at once for a revoked token."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from services.common.auth.identity import Identity
from services.common.auth.keys import LEEWAY_SECONDS
from services.common.errors import InvalidToken, ServiceUnavailable
from services.socket.disconnect import TOKEN_EXPIRED, TOKEN_REVOKED
from services.socket.hub import Hub, SocketClient

WARNING_SECONDS = 60.0
"""Before the end of a token `socket.expiring` is sent, so that the client can renew it."""
TOKEN_CHECK_SECONDS = 0.5
"""Between two passes over all clients: 20,000 take about 4 ms."""

_log = logging.getLogger("gridcast.socket")


class TokenExpiry:
    """Checks the tokens of all connections of this replica.

    `send_expiring` sends the warning with the time of the end; `check_current` raises for a token that was revoked.
    """

    def __init__(
        self,
        hub: Hub,
        send_expiring: Callable[[SocketClient, str], None],
        check_current: Callable[[Identity], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._send_expiring = send_expiring
        self._check_current = check_current
        self._clock = clock

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(TOKEN_CHECK_SECONDS)
            try:
                self.check_all()
            except Exception:  # noqa: BLE001  # the next pass runs nevertheless
                _log.exception("unhandled exception while checking tokens")

    def check_all(self) -> None:
        """Check every connection once."""
        now = self._clock()
        for client in list(self._hub.clients.values()):
            identity = client.identity
            if identity is None:
                continue
            if now >= identity.expires_at + LEEWAY_SECONDS:
                client.disconnect(TOKEN_EXPIRED)
                continue
            try:
                self._check_current(identity)
            except InvalidToken:
                client.disconnect(TOKEN_REVOKED)
                continue
            except ServiceUnavailable:
                pass  # not known now: who is connected stays, who comes is refused
            if (
                now >= identity.expires_at - WARNING_SECONDS
                and not client.expiring_sent
                and client.replay_buffer is None
            ):
                client.expiring_sent = True
                self._send_expiring(client, datetime.fromtimestamp(identity.expires_at, UTC).isoformat())
