"""Settings of the live service."""

from pydantic import Field, field_validator

from services.common.bus.redis import validate_redis_url
from services.common.settings import AuthSettings, RedisSettings
from services.common.store.writer_settings import WriterSettings
from services.common.webhooks.hook_settings import HookSettings

MAX_GRACE_SECONDS = 86400
MAX_TARGET_SECONDS = 10


class LiveSettings(WriterSettings, RedisSettings, AuthSettings, HookSettings):
    """The settings that the live service adds."""

    port: int = Field(8004, ge=1, le=65535, description="port to listen on")
    live_token_ttl: float = Field(
        86400.0, gt=0, description="seconds: the publish token of a live stream ends after this"
    )
    live_max_bytes: int = Field(
        16 * 1024**3, ge=1024**2, description="bytes: a live stream that has as many ends, and its file is kept"
    )
    live_max_duration: float = Field(
        86400.0, gt=0, description="seconds: a live stream that is as long ends, and its file is kept"
    )
    live_max_rate: int = Field(
        0,
        ge=0,
        description="bytes per second: a live stream whose media have more over 30 s of media time ends; 0: no limit",
    )
    live_max_streams_per_owner: int = Field(
        0, ge=0, description="live streams of one subject that have not ended; 429 beyond; 0: no limit"
    )
    live_max_messages: int = Field(
        10_000, ge=0, le=100_000, description="time-coded messages that are kept of one live stream; 429 beyond"
    )
    live_max_publishers: int = Field(
        # Each takes 12 MiB at most, the process 128 MiB; together they fit into the 1 GiB of our deployments.
        64,
        ge=1,
        description="requests of publishers that one process receives at the same time; 503 beyond",
    )
    live_intake_factor: float = Field(
        4.0,
        ge=0,
        description="live media are taken at this many times their own speed at most; 0: as fast as they come",
    )
    live_target_duration: int = Field(
        2, ge=1, le=MAX_TARGET_SECONDS, description="seconds: a segment of a live stream is as long at most"
    )
    live_interrupted_after: float = Field(
        5.0, gt=0, description="seconds: a live stream that gets no byte for this long is interrupted"
    )
    live_grace: float = Field(
        60.0,
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="seconds: a live stream that is interrupted for this long ends, unless it was made with another grace",
    )

    _validate_redis_url = field_validator("redis_url")(validate_redis_url)
