"""Starts the upload service: `python -m services.upload`."""

from functools import partial

from services.common import serve
from services.upload.app import create_app, limits_of
from services.upload.settings import UploadSettings

if __name__ == "__main__":
    settings = UploadSettings()
    limits = limits_of(settings)
    serve.run("upload", lambda: create_app(settings, limits), settings, drain=partial(limits.drain, settings.drain))
