"""Settings of the socket service."""

from pydantic import Field

from services.common.settings import RedisSettings


class SocketSettings(RedisSettings):
    """The variables of the socket service."""

    port: int = Field(8003, ge=1, le=65535, description="port to listen on")
    allowed_origins: str = Field(
        "",
        description="origins whose pages may connect, separated by commas; * for all; the service's own host may always",
    )
    max_connections: int = Field(20_000, ge=1, description="WebSocket connections of one replica at most")
    max_topics_per_connection: int = Field(100, ge=0, description="topics to which one connection may subscribe")
    handshake_rate: float = Field(
        500.0, gt=0, description="handshakes per second; bursts of twice as many; more are refused with 503"
    )
    message_rate: float = Field(
        50.0, gt=0, description="messages per second from one connection; bursts of twice as many"
    )
    ping_interval: float = Field(
        20.0, gt=0, le=60, description="seconds between pings; a client has three quarters of this to answer"
    )
