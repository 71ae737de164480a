"""Starts the socket service: `python -m services.socket`."""

from services.common.server import run
from services.socket.app import create_app
from services.socket.connection import connection_class
from services.socket.settings import SocketSettings

if __name__ == "__main__":
    settings = SocketSettings()
    app = create_app(settings)
    run.run("socket", lambda: app, settings, ws=connection_class(settings.ping_interval), drain=app.drain)
