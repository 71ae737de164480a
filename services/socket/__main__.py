"""Starts the socket service: `python -m services.socket`."""

from services.common.server.run import run
from services.common.settings import load_settings
from services.common.telemetry.request_telemetry import start_telemetry
from services.socket.app import create_app
from services.socket.connection import connection_class
from services.socket.settings import SocketSettings

if __name__ == "__main__":
    settings = load_settings(SocketSettings)
    app = create_app(settings, start_telemetry("socket", settings))
    run(lambda: app, settings, websocket=connection_class(settings.ping_interval), shutdown_hook=app.drain)
