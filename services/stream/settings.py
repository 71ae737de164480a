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

    live_streams: int = Field(200, ge=1, le=100_000, description="live streams whose lists are kept in memory")
    live_segments: int = Field(
        200_000,
        ge=1_000,
        description="segments in the lists of all these streams; each takes about 400 bytes of memory",
    )
    live_segment_cache_size: int = Field(
        64 * 1024**2, ge=1024**2, description="bytes: segments of streams that have not ended, kept in memory"
    )
    live_waiting: int = Field(
        10_000, ge=1, le=1_000_000, description="requests that wait for the next segment of a live stream; 503 beyond"
    )
    live_waiting_per_stream: int = Field(5_000, ge=1, le=1_000_000, description="the same for one stream; 503 beyond")

    _validate_redis_url = field_validator("redis_url")(validate_redis_url)
