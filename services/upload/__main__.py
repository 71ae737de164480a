"""Starts the upload service: `python -m services.upload`."""

from functools import partial

from services.common.server import run
from services.upload.app import create_app, create_limiter
from services.upload.settings import UploadSettings

if __name__ == "__main__":
    settings = UploadSettings()
    limiter = create_limiter(settings)
    run.run(
        "upload",
        lambda: create_app(settings, limiter),
        settings,
        drain=partial(limiter.drain, settings.shutdown_timeout),
    )
