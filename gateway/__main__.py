"""Starts the gateway: `python -m gateway`."""

import resource

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.tunnel import Tunnel
from services.common import serve
from services.common.http import Http
from services.common.wire import waiting

if __name__ == "__main__":
    settings = GatewaySettings()
    # A tunnel takes two descriptors, and the usual soft limit is 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve.run("gateway", lambda: create_app(settings), settings, http=waiting(Http, settings.reader_seconds), ws=Tunnel)
