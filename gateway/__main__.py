"""Starts the gateway: `python -m gateway`."""

import resource

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.websocket.websocket_tunnel import ClientHandshake
from services.common.server import run
from services.common.server.connection import Http
from services.common.server.transport import waiting

if __name__ == "__main__":
    settings = GatewaySettings()
    # A tunnel takes two descriptors, and the usual soft limit is 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run.run(
        "gateway", lambda: create_app(settings), settings, http=waiting(Http, settings.send_timeout), ws=ClientHandshake
    )
