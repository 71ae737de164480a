"""gateway.proxy.timeouts: which phase of an exchange times out, with a clock that the test advances."""

import asyncio
from typing import cast

import pytest

from gateway.proxy.timeouts import MIN_BODY_PROGRESS_BYTES, Phase, ProxyExchange, ProxyTimeouts
from services.common.errors import GatewayTimeout, GridcastError, RequestTimeout

TIMEOUTS = ProxyTimeouts(client_body=30.0, upstream_idle=20.0, send=120.0)


class FakeTask:
    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def make_exchange(
    *, complete: bool = False, response_header_timeout: float = 60.0, endless_body_timeout: float | None = None
) -> tuple[ProxyExchange, FakeTask]:
    task = FakeTask()
    exchange = ProxyExchange(
        cast("asyncio.Task[None]", task),
        0.0,
        response_header_timeout,
        request_complete=complete,
        endless_body_timeout=endless_body_timeout,
    )
    if not complete:
        exchange.phase = Phase.READING_CLIENT
        assert exchange.timeout_error(0.0, TIMEOUTS) is None
    return exchange, task


def abort_error_at(exchange: ProxyExchange, *times: float) -> type[GridcastError] | None:
    for now in times:
        if (error := exchange.timeout_error(now, TIMEOUTS)) is not None:
            return type(error)
    return None


def test_missing_body_is_timed_out() -> None:
    exchange, _ = make_exchange()
    assert abort_error_at(exchange, 29.0) is None
    assert abort_error_at(exchange, 31.0) is RequestTimeout


def test_body_of_one_byte_per_second_is_timed_out() -> None:
    exchange, _ = make_exchange()
    for now in range(1, 60):
        exchange.bytes_transferred += 1
        exchange.phase = Phase.WRITING_UPSTREAM if now % 7 == 0 else Phase.READING_CLIENT
        if abort_error_at(exchange, float(now)):
            assert 30 < now < 40
            assert abort_error_at(exchange, float(now)) is RequestTimeout
            return
    pytest.fail("never ended")


def test_slow_steady_body_is_never_timed_out() -> None:
    exchange, _ = make_exchange()
    for now in range(0, 7200, 20):
        exchange.bytes_transferred += MIN_BODY_PROGRESS_BYTES
        assert abort_error_at(exchange, float(now)) is None


def test_endless_body_may_be_slow_and_silent_for_its_own_time() -> None:
    """A publisher sends nothing while its source stands still."""
    exchange, _ = make_exchange(endless_body_timeout=50.0)
    assert abort_error_at(exchange, 49.0) is None
    for now in range(50, 3600, 45):
        exchange.bytes_transferred += 1
        assert abort_error_at(exchange, float(now)) is None
    assert abort_error_at(exchange, now + 49.0) is None
    assert abort_error_at(exchange, now + 51.0) is RequestTimeout


def test_endless_body_that_the_upstream_does_not_accept_is_timed_out() -> None:
    exchange, _ = make_exchange(endless_body_timeout=50.0)
    exchange.bytes_transferred, exchange.phase = 100_000, Phase.WRITING_UPSTREAM
    assert abort_error_at(exchange, 1.0, 20.0) is None
    assert abort_error_at(exchange, 22.0) is GatewayTimeout


def test_client_awaiting_100_continue_is_not_timed_out() -> None:
    exchange = ProxyExchange(cast("asyncio.Task[None]", FakeTask()), 0.0, 60.0, request_complete=False)
    assert abort_error_at(exchange, 19.0) is None
    exchange.phase = Phase.READING_CLIENT
    assert abort_error_at(exchange, 19.5, 49.0) is None
    assert abort_error_at(exchange, 50.0) is RequestTimeout


def test_commit_timeout_needs_a_requested_body() -> None:
    exchange = ProxyExchange(cast("asyncio.Task[None]", FakeTask()), 0.0, 900.0, request_complete=False)
    assert abort_error_at(exchange, 19.0) is None
    assert abort_error_at(exchange, 21.0) is GatewayTimeout


def test_upstream_that_stops_reading_is_timed_out() -> None:
    exchange, _ = make_exchange()
    exchange.bytes_transferred, exchange.phase = 100_000, Phase.WRITING_UPSTREAM
    assert abort_error_at(exchange, 1.0, 20.0) is None
    assert abort_error_at(exchange, 22.0) is GatewayTimeout


def test_response_header_timeout_starts_after_a_long_body() -> None:
    exchange, _ = make_exchange(response_header_timeout=60.0)
    for now in range(0, 600, 5):
        exchange.bytes_transferred += 1_000_000
        assert abort_error_at(exchange, float(now)) is None
    exchange.request_complete, exchange.phase = True, Phase.AWAITING_HEADERS
    assert abort_error_at(exchange, 600.0, 655.0) is None
    assert abort_error_at(exchange, 661.0) is GatewayTimeout


def test_upstream_that_stalls_in_its_response_is_timed_out() -> None:
    exchange, _ = make_exchange(complete=True)
    exchange.bytes_transferred, exchange.phase = 1000, Phase.READING_UPSTREAM
    assert abort_error_at(exchange, 1.0, 20.0) is None
    assert abort_error_at(exchange, 22.0) is GatewayTimeout


def test_paused_reader_has_its_own_timeout_and_the_upstream_is_not_blamed() -> None:
    exchange, _ = make_exchange(complete=True)
    exchange.bytes_transferred, exchange.phase = 1000, Phase.WRITING_CLIENT
    assert abort_error_at(exchange, 0.0, 119.0) is None
    exchange.phase = Phase.READING_UPSTREAM
    assert abort_error_at(exchange, 119.5) is None
    exchange.phase = Phase.WRITING_CLIENT
    assert abort_error_at(exchange, 120.0, 239.0) is None
    assert abort_error_at(exchange, 241.0) is RequestTimeout


def test_monitor_aborts_once() -> None:
    exchange, task = make_exchange()
    first = RequestTimeout("first")
    exchange.abort(first)
    exchange.abort(RequestTimeout("second"))
    assert exchange.abort_reason is first
    assert task.cancelled == 1
