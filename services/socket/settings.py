"""Settings of the socket service."""

from pydantic import Field

from services.common.settings import RedisSettings


class SocketSettings(RedisSettings):
    """What the socket service adds."""

    port: int = Field(8003, ge=1, le=65535, description="port to listen on")
    allowed_origins: str = Field(
        "",
        description="origins whose pages may connect, separated by commas; * for all; the service's own host always may",
    )
    max_connections: int = Field(20_000, ge=1, description="connections of one replica")
    max_topics_per_connection: int = Field(100, ge=0, description="topics that one socket may hear")
    handshake_rate: float = Field(
        500.0, gt=0, description="handshakes a second, twice as many at once; more are refused with 503"
    )
    message_rate: float = Field(50.0, gt=0, description="messages a second from one socket, twice as many at once")
    ping_interval: float = Field(
        20.0, gt=0, le=60, description="seconds between pings; a client has three quarters of them to answer"
    )
