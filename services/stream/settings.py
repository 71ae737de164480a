"""Settings of the stream service."""

from pydantic import Field, field_validator

from services.common.bus.redis import validate_redis_url
from services.common.settings import AuthSettings, RedisSettings, StoreSettings


class StreamSettings(StoreSettings, RedisSettings, AuthSettings):
    """Settings that the stream service adds."""

    port: int = Field(8002, ge=1, le=65535, description="port to listen on")
    block_cache_size: int = Field(
        256 * 1024**2, ge=4 * 1024**2, description="bytes: file content kept in memory, read-ahead included"
    )
    metadata_cache_entries: int = Field(
        10_000, ge=1, description="files whose metadata is kept in memory, for one second at most"
    )
    send_timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="seconds: the connection is closed if nothing could be sent to the client for this long",
    )

    _validate_redis_url = field_validator("redis_url")(validate_redis_url)
