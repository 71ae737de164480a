"""Settings of the upload service."""

from pydantic import Field

from services.common.settings import MongoSettings, RedisSettings


class UploadSettings(MongoSettings, RedisSettings):
    """What the upload service adds."""

    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    max_upload: int = Field(16 * 1024**3, ge=1, description="bytes of one file at the most")
