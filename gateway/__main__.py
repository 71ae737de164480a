"""Starts the gateway: `python -m gateway`."""

from gateway.app import create_app
from gateway.client_connection import connection_class
from gateway.settings import GatewaySettings
from gateway.websocket.handshake import ClientHandshake
from services.common.aio.descriptor_limit import raise_descriptor_limit_to_maximum
from services.common.server.run import run
from services.common.settings import load_settings
from services.common.telemetry.request_telemetry import start_telemetry

if __name__ == "__main__":
    settings = load_settings(GatewaySettings)
    raise_descriptor_limit_to_maximum()  # a tunnel needs two descriptors
    telemetry = start_telemetry("gateway", settings)
    run(
        lambda: create_app(settings, telemetry),
        settings,
        http=connection_class(settings.send_timeout),
        websocket=ClientHandshake,
    )
