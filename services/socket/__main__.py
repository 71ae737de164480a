"""Starts the socket service: `python -m services.socket`."""

from services.common import serve
from services.socket.app import create_app
from services.socket.frames import pinging
from services.socket.settings import SocketSettings

if __name__ == "__main__":
    settings = SocketSettings()
    app = create_app(settings)
    serve.run("socket", lambda: app, settings, ws=pinging(settings.ping), drain=app.drain)
