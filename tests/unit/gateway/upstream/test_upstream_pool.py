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


def make_pool(count: int) -> UpstreamPool:
    return UpstreamPool("stream", [Address("10.0.0.1", 8000 + number) for number in range(count)])


def select(pool: UpstreamPool, *tried: Upstream) -> Upstream:
    upstream = pool.select_least_requests(tried)
    assert upstream is not None
    return upstream


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
    pool = make_pool(3)
    assert len({select(pool) for _ in range(3)}) == 3


def test_upstream_with_the_fewest_requests_is_selected() -> None:
    pool = make_pool(3)
    with pool.upstreams[0], pool.upstreams[2]:
        assert {select(pool) for _ in range(6)} == {pool.upstreams[1]}
    assert [upstream.active_requests for upstream in pool.upstreams] == [0, 0, 0]


def test_tried_upstream_is_not_selected_again() -> None:
    pool = make_pool(2)
    first = select(pool)
    second = select(pool, first)
    assert second is not first
    assert pool.select_least_requests((first, second)) is None


def test_failed_upstream_is_ejected_until_a_health_check_succeeds() -> None:
    pool = make_pool(2)
    bad, good = pool.upstreams
    pool.record_failure(bad, 100.0)
    assert not bad.needs_health_check(100.0 + BASE_EJECTION_SECONDS / 2)
    assert bad.needs_health_check(100.0 + BASE_EJECTION_SECONDS)
    with good:
        assert {select(pool) for _ in range(4)} == {good}
        pool.end_ejection(bad)
        assert not bad.needs_health_check(200.0)
        assert {select(pool) for _ in range(4)} == {bad}


def test_upstream_that_passes_only_health_checks_is_ejected_for_longer_each_time() -> None:
    pool = make_pool(2)
    bad, _ = pool.upstreams
    for expected in (BASE_EJECTION_SECONDS, BASE_EJECTION_SECONDS * 2, BASE_EJECTION_SECONDS * 4):
        pool.record_failure(bad, 0.0)
        assert bad.ejected_until == expected
        pool.end_ejection(bad)
    pool.record_success(bad)
    pool.record_failure(bad, 0.0)
    assert bad.ejected_until == BASE_EJECTION_SECONDS


def test_ejection_doubles_up_to_a_bound() -> None:
    pool = make_pool(1)
    (upstream,) = pool.upstreams
    for expected in (
        BASE_EJECTION_SECONDS,
        BASE_EJECTION_SECONDS * 2,
        BASE_EJECTION_SECONDS * 4,
        MAX_EJECTION_SECONDS,
        MAX_EJECTION_SECONDS,
    ):
        pool.record_failure(upstream, 0.0)
        assert upstream.ejected_until == expected


def test_ejection_time_does_not_overflow() -> None:
    pool = make_pool(1)
    (upstream,) = pool.upstreams
    for _ in range(5000):
        pool.record_failure(upstream, 7.0)
    assert upstream.ejected_until == 7.0 + MAX_EJECTION_SECONDS


def test_panic_mode_selects_ejected_upstreams() -> None:
    pool = make_pool(2)
    pool.record_failure(pool.upstreams[0], 1.0)
    pool.record_failure(pool.upstreams[1], 0.0)
    first = select(pool)
    assert first is pool.upstreams[1]
    assert select(pool, first) is pool.upstreams[0]


def test_state_of_a_remaining_address_is_kept() -> None:
    pool = make_pool(2)
    pool.record_failure(pool.upstreams[1], 0.0)
    stays, new = pool.upstreams[1].address, Address("10.0.0.9", 8000)
    pool.update([stays, new])
    assert [upstream.address for upstream in pool.upstreams] == [stays, new]
    assert [upstream.consecutive_failures for upstream in pool.upstreams] == [1, 0]


@given(st.lists(st.sampled_from(["fail", "work", "return", "wait"]), max_size=60), st.integers(1, 4))
def test_an_upstream_is_always_selected(steps: list[str], count: int) -> None:
    pool, now = make_pool(count), 0.0
    for step in steps:
        upstream = select(pool)
        with upstream:
            if step == "fail":
                pool.record_failure(upstream, now)
            elif step == "work":
                pool.record_success(upstream)
            elif step == "return":
                pool.end_ejection(upstream)
            else:
                now += 0.7
    assert all(upstream.active_requests == 0 for upstream in pool.upstreams)
    assert all(
        upstream.needs_health_check(now + MAX_EJECTION_SECONDS) is upstream.ejected for upstream in pool.upstreams
    )
