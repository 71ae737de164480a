"""Which replica is asked: shares, ejection, the one trial, addresses that change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams import LONGEST, SHORTEST, Address, Replica, Upstream, parse


def made(count: int) -> Upstream:
    return Upstream("stream", [Address("10.0.0.1", 8000 + number) for number in range(count)])


def picked(upstream: Upstream, *tried: Replica) -> Replica:
    replica = upstream.pick(tried)
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
    assert parse(url) == address


@pytest.mark.parametrize(
    "url", ["", "a:80", "https://a", "http://", "http://a/b", "http://u:p@a", "http://a?b", "http://a:x", "ftp://a"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(url)


def test_equals_take_turns() -> None:
    upstream = made(3)
    assert len({picked(upstream) for _ in range(3)}) == 3


def test_the_fewest_in_flight_is_asked() -> None:
    upstream = made(3)
    with upstream.replicas[0], upstream.replicas[2]:
        assert {picked(upstream) for _ in range(6)} == {upstream.replicas[1]}
    assert [replica.in_flight for replica in upstream.replicas] == [0, 0, 0]


def test_what_was_tried_is_not_asked_again() -> None:
    upstream = made(2)
    first = picked(upstream)
    second = picked(upstream, first)
    assert second is not first
    assert upstream.pick((first, second)) is None


def test_a_failed_one_is_left_alone_until_it_has_answered_our_own_question() -> None:
    upstream = made(2)
    bad, good = upstream.replicas
    upstream.failed(bad, 100.0)
    assert not bad.is_due(100.0 + SHORTEST / 2)
    assert bad.is_due(100.0 + SHORTEST)
    with good:
        assert {picked(upstream) for _ in range(4)} == {good}
        upstream.returned(bad)
        assert not bad.is_due(200.0)
        assert {picked(upstream) for _ in range(4)} == {bad}


def test_who_answers_our_question_and_no_request_is_left_alone_for_longer_each_time() -> None:
    upstream = made(2)
    bad, _ = upstream.replicas
    for expected in (SHORTEST, SHORTEST * 2, SHORTEST * 4):
        upstream.failed(bad, 0.0)
        assert bad.until == expected
        upstream.returned(bad)
    upstream.worked(bad)
    upstream.failed(bad, 0.0)
    assert bad.until == SHORTEST


def test_ejection_doubles_up_to_a_bound() -> None:
    upstream = made(1)
    (replica,) = upstream.replicas
    for expected in (SHORTEST, SHORTEST * 2, SHORTEST * 4, LONGEST, LONGEST):
        upstream.failed(replica, 0.0)
        assert replica.until == expected


def test_a_replica_may_fail_for_weeks() -> None:
    upstream = made(1)
    (replica,) = upstream.replicas
    for _ in range(5000):
        upstream.failed(replica, 7.0)
    assert replica.until == 7.0 + LONGEST


def test_when_all_are_ejected_they_are_asked_all_the_same() -> None:
    upstream = made(2)
    upstream.failed(upstream.replicas[0], 1.0)
    upstream.failed(upstream.replicas[1], 0.0)
    first = picked(upstream)
    assert first is upstream.replicas[1]
    assert picked(upstream, first) is upstream.replicas[0]


def test_what_is_known_of_an_address_that_stays_is_kept() -> None:
    upstream = made(2)
    upstream.failed(upstream.replicas[1], 0.0)
    stays, new = upstream.replicas[1].address, Address("10.0.0.9", 8000)
    upstream.update([stays, new])
    assert [replica.address for replica in upstream.replicas] == [stays, new]
    assert [replica.failures for replica in upstream.replicas] == [1, 0]


@given(st.lists(st.sampled_from(["fail", "work", "return", "wait"]), max_size=60), st.integers(1, 4))
def test_there_is_always_somebody_to_ask(steps: list[str], count: int) -> None:
    upstream, now = made(count), 0.0
    for step in steps:
        replica = picked(upstream)
        with replica:
            if step == "fail":
                upstream.failed(replica, now)
            elif step == "work":
                upstream.worked(replica)
            elif step == "return":
                upstream.returned(replica)
            else:
                now += 0.7
    assert all(replica.in_flight == 0 for replica in upstream.replicas)
    assert all(replica.is_due(now + LONGEST) is replica.away for replica in upstream.replicas)
