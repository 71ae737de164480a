"""gateway.limiters: request rate and open tunnels per client, and which addresses count as one client."""

import pytest

from gateway.limiters import MAX_TRACKED_CLIENTS, ConnectionLimiter, RateLimiter
from gateway.websocket.relay import ConnectionSlot
from services.common.errors import ServiceUnavailable, TooManyRequests
from services.common.http.clients import client_key


def test_rate_limiter_allows_a_burst_of_twice_the_rate() -> None:
    rate = RateLimiter(8.0)
    for _ in range(16):
        rate.acquire("a", 0.0)
    with pytest.raises(TooManyRequests) as refused:
        rate.acquire("a", 0.0)
    assert refused.value.headers == {"retry-after": "1"}
    rate.acquire("b", 0.0)
    for step in range(1, 51):
        rate.acquire("a", step / 8)
    with pytest.raises(TooManyRequests):
        rate.acquire("a", 50.5 / 8)


def test_slow_rate_limiter_reports_retry_after() -> None:
    rate = RateLimiter(0.5)
    rate.acquire("a", 0.0)
    with pytest.raises(TooManyRequests) as refused:
        rate.acquire("a", 0.0)
    assert refused.value.headers == {"retry-after": "2"}
    rate.acquire("a", 2.0)


def test_rate_limiter_remembers_a_bounded_number_of_clients() -> None:
    rate = RateLimiter(1.0)
    for number in range(MAX_TRACKED_CLIENTS + 100):
        rate.acquire(str(number), 0.0)
    assert len(rate._buckets) == MAX_TRACKED_CLIENTS


def test_connections_are_limited_in_total_and_per_client() -> None:
    tunnels = ConnectionLimiter(3, 2)
    first, second = ConnectionSlot(tunnels, "a"), ConnectionSlot(tunnels, "a")
    with pytest.raises(TooManyRequests):
        ConnectionSlot(tunnels, "a")
    third = ConnectionSlot(tunnels, "b")
    with pytest.raises(ServiceUnavailable):
        ConnectionSlot(tunnels, "c")
    first.release()
    first.release()
    ConnectionSlot(tunnels, "a")
    with pytest.raises(ServiceUnavailable):
        ConnectionSlot(tunnels, "a")
    second.release()
    third.release()
    assert "b" not in tunnels._by_client


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("unknown", "unknown", True),
        ("a:b", "a:b", True),
    ],
)
def test_client_key_groups_addresses(one: str, other: str, *, same: bool) -> None:
    assert (client_key(one) == client_key(other)) is same
