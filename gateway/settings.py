"""Settings of the gateway: the upstreams of each service, limits and timeouts."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from gateway.forwarded import IPNetwork, parse_networks
from gateway.upstream.upstream_pool import Address, parse_address
from services.common.settings import Settings

UpstreamUrls = Annotated[tuple[Address, ...], NoDecode]


class GatewaySettings(Settings):
    """Settings that the gateway adds."""

    upload_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8001),),
        description="http://host:port of the upload service, separated by commas; a name stands for all its addresses",
    )
    stream_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8002),), description="http://host:port of the stream service, likewise"
    )
    socket_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8003),), description="http://host:port of the socket service, likewise"
    )
    live_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8004),), description="http://host:port of the live service, likewise"
    )

    allowed_origins: str = Field(
        "",
        description="origins whose pages may use this API, separated by commas; * for all; its own is always allowed",
    )
    trusted_proxies: Annotated[tuple[IPNetwork, ...], NoDecode] = Field(
        (),
        description="addresses and networks, separated by commas, of the proxies whose X-Forwarded-* and X-Request-ID are trusted",
    )
    request_rate_per_client: float = Field(
        0.0,
        ge=0,
        description="requests per second from one client address, with bursts of twice as many; 429 beyond; 0: no limit",
    )
    max_tunnels: int = Field(20_000, ge=1, description="open WebSocket tunnels of one gateway; 503 beyond")
    max_tunnels_per_client: int = Field(
        0, ge=0, description="open WebSocket tunnels of one client address; 429 beyond; 0: no limit"
    )
    max_body_size: int = Field(64 * 1024**3, ge=1, description="bytes: largest body of an upload request; 413 beyond")
    connect_timeout: float = Field(0.7, gt=0, le=60, description="seconds: one attempt to connect to an upstream")
    response_header_timeout: float = Field(
        35.0,
        gt=0,
        description="seconds: wait for the headers of a response; 504 beyond; a push may wait 30 for its ack",
    )
    commit_timeout: float = Field(
        900.0,
        gt=0,
        description="seconds: the same after a complete upload: the service may read the file back before it commits",
    )
    client_body_timeout: float = Field(
        30.0, gt=0, description="seconds: a client must send at least 1 KiB of its body within this time; else 408"
    )
    live_body_timeout: float = Field(
        60.0, gt=0, description="seconds: a publisher of a live stream must send a byte within this time; else 408"
    )
    upstream_idle_timeout: float = Field(
        30.0, gt=0, description="seconds: an upstream must accept or send at least one byte within this time; else 504"
    )
    send_timeout: float = Field(
        120.0,
        gt=0,
        description="seconds: the connection is closed if nothing could be sent to the client for this long",
    )

    @field_validator("upload_urls", "stream_urls", "socket_urls", "live_urls", mode="before")
    @classmethod
    def _parse_urls(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(parse_address(url.strip()) for url in value.split(",") if url.strip())
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_trusted_proxies(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value

    @field_validator("upload_urls", "stream_urls", "socket_urls", "live_urls")
    @classmethod
    def _require_upstream(cls, value: tuple[Address, ...]) -> tuple[Address, ...]:
        if not value:
            raise ValueError("there must be at least one address")
        return value
