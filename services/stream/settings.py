"""Settings of the stream service."""

from pydantic import Field

from services.common.settings import MongoSettings, RedisSettings


class StreamSettings(MongoSettings, RedisSettings):
    """What the stream service adds."""

    port: int = Field(8002, ge=1, le=65535, description="port to listen on")
