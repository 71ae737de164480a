"""Starts the upload service: `python -m services.upload`."""

from services.common import serve
from services.upload.app import create_app
from services.upload.settings import UploadSettings

if __name__ == "__main__":
    settings = UploadSettings()
    serve.run("upload", lambda: create_app(settings), settings)
