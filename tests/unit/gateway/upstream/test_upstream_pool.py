"""gateway.upstream.upstream_pool: selection, ejection, the health check that ends it, changing addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.upstream_pool import (
    BASE_EJECTION_SECONDS,
    MAX_EJECTION_SECONDS,
    Address,
    Upstream,
    UpstreamPool,
    parse_address,
)


def make_upstream(count: int) -> UpstreamPool:
    return UpstreamPool("stream", [Address("10.0.0.1", 8000 + number) for number in range(count)])


def select(upstream: UpstreamPool, *tried: Upstream) -> Upstream:
    replica = upstream.select_least_requests(tried)
    assert replica is not None
    return replica


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a:80", ("a", 80)),
        ("http://a", ("a", 80)),
        ("http://upload-1.svc:8001/", ("upload-1.svc", 8001)),
        ("http://[::1]:9", ("::1", 9)),
    ],
)
def test_addresses(url: str, address: tuple[str, int]) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url", ["", "a:80", "https://a", "http://", "http://a/b", "http://u:p@a", "http://a?b", "http://a:x", "ftp://a"]
)
def test_invalid_addresses(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(url)


def test_equal_upstreams_rotate() -> None:
    upstream = make_upstream(3)
    assert len({select(upstream) for _ in range(3)}) == 3


def test_upstream_with_the_fewest_requests_is_selected() -> None:
    upstream = make_upstream(3)
    with upstream.upstreams[0], upstream.upstreams[2]:
        assert {select(upstream) for _ in range(6)} == {upstream.upstreams[1]}
    assert [replica.active_requests for replica in upstream.upstreams] == [0, 0, 0]


def test_tried_upstream_is_not_selected_again() -> None:
    upstream = make_upstream(2)
    first = select(upstream)
    second = select(upstream, first)
    assert second is not first
    assert upstream.select_least_requests((first, second)) is None


def test_failed_upstream_is_ejected_until_a_health_check_succeeds() -> None:
    upstream = make_upstream(2)
    bad, good = upstream.upstreams
    upstream.record_failure(bad, 100.0)
    assert not bad.needs_health_check(100.0 + BASE_EJECTION_SECONDS / 2)
    assert bad.needs_health_check(100.0 + BASE_EJECTION_SECONDS)
    with good:
        assert {select(upstream) for _ in range(4)} == {good}
        upstream.end_ejection(bad)
        assert not bad.needs_health_check(200.0)
        assert {select(upstream) for _ in range(4)} == {bad}


def test_upstream_that_passes_only_health_checks_is_ejected_for_longer_each_time() -> None:
    upstream = make_upstream(2)
    bad, _ = upstream.upstreams
    for expected in (BASE_EJECTION_SECONDS, BASE_EJECTION_SECONDS * 2, BASE_EJECTION_SECONDS * 4):
        upstream.record_failure(bad, 0.0)
        assert bad.ejected_until == expected
        upstream.end_ejection(bad)
    upstream.record_success(bad)
    upstream.record_failure(bad, 0.0)
    assert bad.ejected_until == BASE_EJECTION_SECONDS


def test_ejection_doubles_up_to_a_bound() -> None:
    upstream = make_upstream(1)
    (replica,) = upstream.upstreams
    for expected in (
        BASE_EJECTION_SECONDS,
        BASE_EJECTION_SECONDS * 2,
        BASE_EJECTION_SECONDS * 4,
        MAX_EJECTION_SECONDS,
        MAX_EJECTION_SECONDS,
    ):
        upstream.record_failure(replica, 0.0)
        assert replica.ejected_until == expected


def test_ejection_time_does_not_overflow() -> None:
    upstream = make_upstream(1)
    (replica,) = upstream.upstreams
    for _ in range(5000):
        upstream.record_failure(replica, 7.0)
    assert replica.ejected_until == 7.0 + MAX_EJECTION_SECONDS


def test_panic_mode_selects_ejected_upstreams() -> None:
    upstream = make_upstream(2)
    upstream.record_failure(upstream.upstreams[0], 1.0)
    upstream.record_failure(upstream.upstreams[1], 0.0)
    first = select(upstream)
    assert first is upstream.upstreams[1]
    assert select(upstream, first) is upstream.upstreams[0]


def test_state_of_a_remaining_address_is_kept() -> None:
    upstream = make_upstream(2)
    upstream.record_failure(upstream.upstreams[1], 0.0)
    stays, new = upstream.upstreams[1].address, Address("10.0.0.9", 8000)
    upstream.update([stays, new])
    assert [replica.address for replica in upstream.upstreams] == [stays, new]
    assert [replica.consecutive_failures for replica in upstream.upstreams] == [1, 0]


@given(st.lists(st.sampled_from(["fail", "work", "return", "wait"]), max_size=60), st.integers(1, 4))
def test_an_upstream_is_always_selected(steps: list[str], count: int) -> None:
    upstream, now = make_upstream(count), 0.0
    for step in steps:
        replica = select(upstream)
        with replica:
            if step == "fail":
                upstream.record_failure(replica, now)
            elif step == "work":
                upstream.record_success(replica)
            elif step == "return":
                upstream.end_ejection(replica)
            else:
                now += 0.7
    assert all(replica.active_requests == 0 for replica in upstream.upstreams)
    assert all(
        replica.needs_health_check(now + MAX_EJECTION_SECONDS) is replica.ejected for replica in upstream.upstreams
    )
