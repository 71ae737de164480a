"""Settings of the socket service."""

from pydantic import Field, field_validator

from services.common.bus.redis import validate_redis_url
from services.common.settings import AuthSettings, RedisSettings


class SocketSettings(RedisSettings, AuthSettings):
    """Settings that the socket service adds."""

    port: int = Field(8003, ge=1, le=65535, description="port to listen on")
    allowed_origins: str = Field(
        "",
        description="origins whose pages may connect, separated by commas; * for all; the service's own is always allowed",
    )
    max_connections: int = Field(20_000, ge=1, description="open WebSocket connections of one replica; 503 beyond")
    max_connections_per_subject: int = Field(
        0, ge=0, description="open WebSocket connections of one subject at one replica; 429 beyond; 0: no limit"
    )
    max_topics_per_connection: int = Field(100, ge=0, description="topics to which one connection may subscribe")
    handshake_rate: float = Field(
        500.0, gt=0, description="handshakes per second of one replica, with bursts of twice as many; 503 beyond"
    )
    message_rate: float = Field(
        50.0,
        gt=0,
        description="messages per second from one connection, with bursts of twice as many; closed with 1008 beyond",
    )
    ping_interval: float = Field(
        20.0,
        gt=0,
        le=60,
        description="seconds: interval between pings; a client has three quarters of it to answer, else 1011",
    )

    _validate_redis_url = field_validator("redis_url")(validate_redis_url)
