"""Starts the live service: `python -m services.live`."""

from services.common.server.run import run
from services.common.settings import load_settings
from services.common.telemetry.request_telemetry import start_telemetry
from services.live.app import LiveProcess, create_app
from services.live.settings import LiveSettings

if __name__ == "__main__":
    settings = load_settings(LiveSettings)
    process = LiveProcess(settings)
    telemetry = start_telemetry("live", settings)
    run(lambda: create_app(settings, telemetry, process), settings, shutdown_hook=process.drain)
