"""Starts the gateway: `python -m gateway`."""

import resource

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.websocket.handshake import ClientHandshake
from services.common.server.connection import HTTPConnection
from services.common.server.run import run
from services.common.server.timeouts import with_send_timeout
from services.common.settings import load_settings

if __name__ == "__main__":
    settings = load_settings(GatewaySettings)
    # A tunnel takes two descriptors, and the usual soft limit is 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run(
        "gateway",
        lambda: create_app(settings),
        settings,
        http=with_send_timeout(HTTPConnection, settings.send_timeout),
        websocket=ClientHandshake,
    )
