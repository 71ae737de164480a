"""Starts the upload service: `python -m services.upload`."""

from functools import partial

from services.common.server.run import run
from services.common.settings import load_settings
from services.common.telemetry.request_telemetry import start_telemetry
from services.upload.app import create_app, create_limiter
from services.upload.settings import UploadSettings

if __name__ == "__main__":
    settings = load_settings(UploadSettings)
    limiter = create_limiter(settings)
    telemetry = start_telemetry("upload", settings)
    run(
        lambda: create_app(settings, limiter, telemetry),
        settings,
        shutdown_hook=partial(limiter.drain, settings.shutdown_timeout),
    )
