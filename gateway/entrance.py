"""The rules of the door in one value: HTTP requests and tunnels, which come in by different ways, share it."""

from dataclasses import dataclass

from gateway.clients import Network
from gateway.door import Rate, Tunnels
from gateway.upstreams import Upstream
from services.common.origins import Origins


@dataclass(frozen=True, slots=True)
class Entrance:
    """What is decided before a request goes anywhere. Tunnels reach it through the lifespan's state, under STATE."""

    upstream: Upstream
    origins: Origins
    rate: Rate | None
    tunnels: Tunnels
    trusted: tuple[Network, ...]
    connect_seconds: float


STATE = "gateway.entrance"
