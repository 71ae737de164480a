"""Starts the gateway: `python -m gateway`."""

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.tunnel import Tunnel
from services.common import serve

if __name__ == "__main__":
    settings = GatewaySettings()
    serve.run("gateway", lambda: create_app(settings), settings, ws=Tunnel)
