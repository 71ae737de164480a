"""The admission policy, which HTTP requests and WebSocket handshakes share."""

from dataclasses import dataclass

from gateway.forwarded import IPNetwork
from gateway.limiters import ConnectionLimiter, RateLimiter
from gateway.upstream.upstream_pool import UpstreamPool
from services.common.http.hosts import HostPolicy
from services.common.http.origins import OriginPolicy


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """What is checked before a request or a handshake goes to a service. Handshakes find it in the lifespan's state."""

    socket_upstreams: UpstreamPool
    hosts: HostPolicy
    origins: OriginPolicy
    rate_limiter: RateLimiter | None
    """None: no limit."""
    connection_limiter: ConnectionLimiter
    trusted_proxies: tuple[IPNetwork, ...]
    connect_timeout: float
    """Seconds for one attempt to connect to an upstream."""


STATE_KEY = "gateway.admission"
"""Key of the policy in the state of the lifespan."""
