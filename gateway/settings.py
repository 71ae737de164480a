"""Settings of the gateway: where the services stand, its limits, and how long it waits for whom."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from gateway.forwarded import IPNetwork, parse_networks
from gateway.upstream.upstream_pool import Address, parse_address
from services.common.settings import Settings

UpstreamUrls = Annotated[tuple[Address, ...], NoDecode]


class GatewaySettings(Settings):
    """What the gateway adds."""

    upload_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8001),), description="http://host:port of each upload replica"
    )
    stream_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8002),), description="http://host:port of each stream replica"
    )
    socket_urls: UpstreamUrls = Field(
        (Address("127.0.0.1", 8003),), description="http://host:port of each socket replica"
    )

    allowed_origins: str = Field(
        "",
        description="origins whose pages may use this API, separated by commas; * for all; the gateway's own always may",
    )
    trusted_proxies: Annotated[tuple[IPNetwork, ...], NoDecode] = Field(
        (),
        description="addresses and networks of proxies before the gateway, whose X-Forwarded-* and X-Request-ID are believed",
    )
    request_rate_per_client: float = Field(
        0.0, ge=0, description="requests a second from one client, twice as many at once; 0: no limit"
    )
    max_tunnels: int = Field(20_000, ge=1, description="WebSockets of one gateway")
    max_tunnels_per_client: int = Field(0, ge=0, description="WebSockets of one client; 0: no limit")
    max_body_size: int = Field(64 * 1024**3, ge=1, description="bytes of a media body at the most: 413 beyond")
    connect_timeout: float = Field(0.7, gt=0, le=60, description="for one attempt to reach a replica")
    response_header_timeout: float = Field(
        35.0, gt=0, description="for the first byte of an answer; a push waits 30 for its ack"
    )
    commit_timeout: float = Field(900.0, gt=0, description="for the answer after a whole upload: it may be read back")
    client_body_timeout: float = Field(
        30.0, gt=0, description="in which a client sends at least 1 KiB of its body: else 408"
    )
    upstream_idle_timeout: float = Field(30.0, gt=0, description="in which a service takes or sends at least one byte")
    send_timeout: float = Field(120.0, gt=0, description="in which a client takes at least one byte of an answer")

    @field_validator("upload_urls", "stream_urls", "socket_urls", mode="before")
    @classmethod
    def _parse_urls(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(parse_address(url.strip()) for url in value.split(",") if url.strip())
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_trusted_proxies(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value

    @field_validator("upload_urls", "stream_urls", "socket_urls")
    @classmethod
    def _require_upstream(cls, value: tuple[Address, ...]) -> tuple[Address, ...]:
        if not value:
            raise ValueError("there must be at least one address")
        return value
