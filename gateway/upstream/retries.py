"""The proxy loop: selects an upstream, sends, ejects the upstream that fails, and tries the next one.

HTTP requests and WebSocket handshakes both take this way. They differ in what they send and in which failures they may repeat
(`ProxiedRequest`).
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeVar

from gateway import proxy_events
from gateway.upstream.connect import ConnectError
from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.errors import BadGateway, GatewayTimeout, drop_tracebacks

CONNECT_BUDGET_SECONDS = 1.5
"""Seconds that one request may spend on failed connects. Beyond it no further upstream is tried, so that the 502 comes within three
seconds.
"""

ResponseT = TypeVar("ResponseT")


class Retry(Enum):
    """Whether a failed request is sent again, and to which upstream."""

    NEVER = auto()
    NEXT_UPSTREAM = auto()
    """To an upstream that was not tried yet."""
    ANY_UPSTREAM = auto()
    """To the same upstream where the service has no other; else as NEXT_UPSTREAM."""


class AttemptFailure(NamedTuple):
    """What follows from an error of `ProxiedRequest.send`."""

    ejection_reason: BaseException | None
    """Ejects the upstream; None where the error is not its fault."""
    retry: Retry


class ProxiedRequest(Protocol[ResponseT]):
    """A request on its way through the proxy loop. Calls never overlap."""

    def send(self, upstream: Upstream) -> Awaitable[ResponseT]:
        """Connect, send the request and wait for the head of the response. An error leaves no connection open."""

    def classify(self, error: BaseException) -> AttemptFailure:
        """Decide what follows from an error of `send`."""

    def relay(self, response: ResponseT) -> Awaitable[None]:
        """Copy the response to the client. Its errors are raised to the caller of the loop: there is no retry any more."""


async def send_with_retries(pool: UpstreamPool, request: ProxiedRequest[ResponseT], clock: Callable[[], float]) -> None:
    """Send a request to the upstreams of `pool` until one responds, and relay the response.

    Raises BadGateway where all were tried or CONNECT_BUDGET_SECONDS are spent, GatewayTimeout where the last one did not respond in
    time; other errors of `request` as they are. An upstream's request counts as active until its response is relayed.
    """
    connecting = 0.0
    tried: list[Upstream] = []
    timeout: GatewayTimeout | None = None
    while connecting <= CONNECT_BUDGET_SECONDS and (upstream := pool.select_least_requests(tried)) is not None:
        started_at = clock()
        with upstream:
            try:
                response = await request.send(upstream)
            except BaseException as error:
                reason, retry = request.classify(error)
                timeout = error if isinstance(error, GatewayTimeout) else None
                if reason is not None:
                    pool.record_failure(upstream, clock())
                    proxy_events.upstream_ejected(pool, upstream, reason)
                if retry is Retry.NEVER:
                    raise
                drop_tracebacks(error)
                if isinstance(error, ConnectError):
                    connecting += clock() - started_at
                else:
                    proxy_events.upstream_retried(pool)
                if retry is Retry.NEXT_UPSTREAM or len(pool.upstreams) > 1:
                    tried.append(upstream)
                continue
            pool.record_success(upstream)
            await request.relay(response)
            return
    raise timeout or BadGateway(f"the {pool.name} service is unreachable")
