"""The rules of the door in one value: HTTP requests and tunnels, which come in by different ways, share it."""

from dataclasses import dataclass

from gateway.forwarded import IPNetwork
from gateway.limiters import ConnectionLimiter, RateLimiter
from gateway.upstream.upstream_pool import UpstreamPool
from services.common.http.origins import OriginPolicy


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What is decided before a request goes anywhere. Tunnels reach it through the lifespan's state, under STATE."""

    socket_upstreams: UpstreamPool
    origins: OriginPolicy
    rate_limiter: RateLimiter | None
    connection_limiter: ConnectionLimiter
    trusted_proxies: tuple[IPNetwork, ...]
    connect_timeout: float


STATE_KEY = "gateway.admission"
