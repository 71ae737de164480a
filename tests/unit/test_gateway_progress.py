"""Who is too slow: an exchange is moved through time by hand."""

import asyncio
from typing import cast

import pytest

from gateway.progress import LEAST, Exchange, Patience, Waiting
from services.common.errors import GatewayTimeout, GridcastError, TooSlow

PATIENCE = Patience(sender=30.0, service=20.0, reader=120.0)


class Task:
    cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


def made(*, complete: bool = False, answer: float = 60.0) -> tuple[Exchange, Task]:
    task = Task()
    exchange = Exchange(cast("asyncio.Task[None]", task), 0.0, answer, complete=complete)
    if not complete:
        exchange.waiting = Waiting.SENDER
        assert exchange.overdue(0.0, PATIENCE) is None
    return exchange, task


def verdict(exchange: Exchange, *times: float) -> type[GridcastError] | None:
    for now in times:
        if (error := exchange.overdue(now, PATIENCE)) is not None:
            return type(error)
    return None


def test_a_body_that_does_not_come() -> None:
    exchange, _ = made()
    assert verdict(exchange, 29.0) is None
    assert verdict(exchange, 31.0) is TooSlow


def test_a_body_of_one_byte_a_second() -> None:
    exchange, _ = made()
    for now in range(1, 60):
        exchange.moved += 1
        exchange.waiting = Waiting.TAKER if now % 7 == 0 else Waiting.SENDER
        if verdict(exchange, float(now)):
            assert 30 < now < 40
            assert verdict(exchange, float(now)) is TooSlow
            return
    pytest.fail("never ended")


def test_a_slow_body_that_moves_is_never_ended() -> None:
    exchange, _ = made()
    for now in range(0, 7200, 20):
        exchange.moved += LEAST
        assert verdict(exchange, float(now)) is None


def test_a_client_that_may_not_send_yet_is_not_slow() -> None:
    exchange = Exchange(cast("asyncio.Task[None]", Task()), 0.0, 60.0, complete=False)
    assert verdict(exchange, 19.0) is None
    exchange.waiting = Waiting.SENDER
    assert verdict(exchange, 19.5, 49.0) is None
    assert verdict(exchange, 50.0) is TooSlow


def test_a_service_that_does_not_ask_for_the_body_has_not_the_time_for_storing_it() -> None:
    exchange = Exchange(cast("asyncio.Task[None]", Task()), 0.0, 900.0, complete=False)
    assert verdict(exchange, 19.0) is None
    assert verdict(exchange, 21.0) is GatewayTimeout


def test_a_service_that_takes_nothing_more() -> None:
    exchange, _ = made()
    exchange.moved, exchange.waiting = 100_000, Waiting.TAKER
    assert verdict(exchange, 1.0, 20.0) is None
    assert verdict(exchange, 22.0) is GatewayTimeout


def test_the_answer_has_its_own_time_after_a_long_body() -> None:
    exchange, _ = made(answer=60.0)
    for now in range(0, 600, 5):
        exchange.moved += 1_000_000
        assert verdict(exchange, float(now)) is None
    exchange.complete, exchange.waiting = True, Waiting.ANSWER
    assert verdict(exchange, 600.0, 655.0) is None
    assert verdict(exchange, 661.0) is GatewayTimeout


def test_a_service_that_stops_in_its_answer() -> None:
    exchange, _ = made(complete=True)
    exchange.moved, exchange.waiting = 1000, Waiting.SERVICE
    assert verdict(exchange, 1.0, 20.0) is None
    assert verdict(exchange, 22.0) is GatewayTimeout


def test_a_reader_that_pauses_has_longer_and_the_service_is_not_blamed_for_it() -> None:
    exchange, _ = made(complete=True)
    exchange.moved, exchange.waiting = 1000, Waiting.READER
    assert verdict(exchange, 0.0, 119.0) is None
    exchange.waiting = Waiting.SERVICE
    assert verdict(exchange, 119.5) is None
    exchange.waiting = Waiting.READER
    assert verdict(exchange, 120.0, 239.0) is None
    assert verdict(exchange, 241.0) is TooSlow


def test_it_is_stopped_once() -> None:
    exchange, task = made()
    first = TooSlow("first")
    exchange.stop(first)
    exchange.stop(TooSlow("second"))
    assert exchange.verdict is first
    assert task.cancelled == 1
