"""Starts the stream service: `python -m services.stream`."""

from services.common.server.run import run
from services.common.settings import load_settings
from services.common.telemetry.request_telemetry import start_telemetry
from services.stream.app import create_app
from services.stream.settings import StreamSettings

if __name__ == "__main__":
    settings = load_settings(StreamSettings)
    telemetry = start_telemetry("stream", settings)
    run(lambda: create_app(settings, telemetry), settings)
