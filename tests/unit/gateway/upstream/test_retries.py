"""gateway.upstream.retries: which upstream gets a request, which one is ejected, and when the loop gives up."""

import pytest

from gateway.upstream.connect import ConnectError
from gateway.upstream.retries import CONNECT_BUDGET_SECONDS, AttemptFailure, Retry, send_with_retries
from gateway.upstream.upstream_pool import Address, Upstream, UpstreamPool
from services.common.errors import BadGateway

pytestmark = pytest.mark.anyio


class ScriptedRequest:
    """A request whose attempts end as scripted, each after `seconds`."""

    def __init__(self, *failures: tuple[BaseException, AttemptFailure] | None, seconds: float = 0.0) -> None:
        self.now = 0.0
        self.sent_to: list[Upstream] = []
        self.active_while_relayed = 0
        self._failures = list(failures)
        self._seconds = seconds
        self._failure: tuple[BaseException, AttemptFailure] | None = None

    async def send(self, upstream: Upstream) -> Upstream:
        self.sent_to.append(upstream)
        self.now += self._seconds
        self._failure = self._failures.pop(0) if self._failures else None
        if self._failure is not None:
            raise self._failure[0]
        return upstream

    def classify(self, error: BaseException) -> AttemptFailure:
        assert self._failure is not None
        assert error is self._failure[0]
        return self._failure[1]

    async def relay(self, response: Upstream) -> None:
        self.active_while_relayed = response.active_requests

    def clock(self) -> float:
        return self.now


def make_pool(size: int) -> UpstreamPool:
    return UpstreamPool("stream", [Address("127.0.0.1", port) for port in range(1, size + 1)])


UNREACHABLE = ConnectError("refused")
CONNECT_FAILURE = (UNREACHABLE, AttemptFailure(UNREACHABLE, Retry.NEXT_UPSTREAM))


async def test_the_next_upstream_responds_and_the_failed_one_is_ejected() -> None:
    pool, request = make_pool(2), ScriptedRequest(CONNECT_FAILURE)
    await send_with_retries(pool, request, request.clock)
    failed, responded = request.sent_to
    assert (failed.ejected, responded.ejected) == (True, False)
    assert request.active_while_relayed == 1
    assert [upstream.active_requests for upstream in pool.upstreams] == [0, 0]


async def test_each_upstream_is_tried_once_for_a_connect_error() -> None:
    pool, request = make_pool(3), ScriptedRequest(*[CONNECT_FAILURE] * 9)
    with pytest.raises(BadGateway, match="the stream service is unreachable"):
        await send_with_retries(pool, request, request.clock)
    assert len(request.sent_to) == len(set(request.sent_to)) == 3


async def test_the_connect_budget_ends_the_loop() -> None:
    pool = make_pool(9)
    request = ScriptedRequest(*[CONNECT_FAILURE] * 9, seconds=CONNECT_BUDGET_SECONDS * 0.6)
    with pytest.raises(BadGateway):
        await send_with_retries(pool, request, request.clock)
    assert len(request.sent_to) == 2


async def test_time_of_a_broken_connection_is_not_charged_to_the_connect_budget() -> None:
    error = ConnectionError("closed")
    pool = make_pool(9)
    request = ScriptedRequest(
        *[(error, AttemptFailure(error, Retry.NEXT_UPSTREAM))] * 4, seconds=CONNECT_BUDGET_SECONDS
    )
    await send_with_retries(pool, request, request.clock)
    assert len(request.sent_to) == 5


@pytest.mark.parametrize(
    ("retry", "size", "attempts", "same"),
    [
        (Retry.ANY_UPSTREAM, 1, 2, True),
        (Retry.ANY_UPSTREAM, 2, 2, False),
        (Retry.NEXT_UPSTREAM, 2, 2, False),
        (Retry.NEXT_UPSTREAM, 1, 1, True),
    ],
)
async def test_a_retry_takes_another_upstream_where_there_is_one(
    retry: Retry, size: int, attempts: int, *, same: bool
) -> None:
    pool, request = make_pool(size), ScriptedRequest((ConnectionError(), AttemptFailure(None, retry)))
    if attempts == 1:
        with pytest.raises(BadGateway):
            await send_with_retries(pool, request, request.clock)
    else:
        await send_with_retries(pool, request, request.clock)
    assert len(request.sent_to) == attempts
    assert (len(set(request.sent_to)) == 1) is same
    assert not any(upstream.ejected for upstream in pool.upstreams)


@pytest.mark.parametrize("fault", [True, False])
async def test_an_error_that_is_not_retried_is_raised_unchanged(*, fault: bool) -> None:
    error = ValueError("x")
    pool, request = make_pool(2), ScriptedRequest((error, AttemptFailure(error if fault else None, Retry.NEVER)))
    with pytest.raises(ValueError, match="x"):
        await send_with_retries(pool, request, request.clock)
    assert len(request.sent_to) == 1
    assert request.sent_to[0].ejected is fault
    assert [upstream.active_requests for upstream in pool.upstreams] == [0, 0]


async def test_an_error_that_was_overcome_keeps_nothing_in_memory() -> None:
    """Its traceback has the frame of the loop, which refers to the error: a cycle."""
    error = ConnectError("refused")
    pool, request = make_pool(2), ScriptedRequest((error, AttemptFailure(error, Retry.NEXT_UPSTREAM)))
    await send_with_retries(pool, request, request.clock)
    assert error.__traceback__ is None
