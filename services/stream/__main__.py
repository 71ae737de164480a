"""Starts the stream service: `python -m services.stream`."""

from services.common.server.run import run
from services.stream.app import create_app
from services.stream.settings import StreamSettings

if __name__ == "__main__":
    settings = StreamSettings()
    run("stream", lambda: create_app(settings), settings)
