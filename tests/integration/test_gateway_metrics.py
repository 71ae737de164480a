"""What the gateway counts of its own decisions, as Prometheus scrapes it."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from tests.support.processes import Service, Start
from tests.support.scripted_upstream import OK, Seen, Upstream, ask, connect, say, silent, statuses, talk, upstream
from tests.support.waiting import eventually

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class Counts:
    """The gateway's metrics, and how much they grew."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._before = self._read()

    def _read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(httpx.get(self._url).raise_for_status().text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def value(self, name: str, **labels: str) -> float:
        return self._read().get((f"gridcast_{name}", frozenset(labels.items())), 0.0)

    def grown(self) -> dict[str, float]:
        """The gateway's own counters that are not what they were, by name and labels."""
        found = {}
        for (name, labels), value in self._read().items():
            more = value - self._before.get((name, labels), 0.0)
            if more and name.startswith(("gridcast_upstream", "gridcast_refused")) and not name.endswith("_created"):
                found[" ".join([name.removeprefix("gridcast_"), *sorted(value for _, value in labels)])] = more
        return found


@pytest.fixture
def first() -> Iterator[Upstream]:
    with upstream() as service:
        yield service


@pytest.fixture
def second() -> Iterator[Upstream]:
    with upstream() as service:
        yield service


@pytest.fixture
def gateway(start_service: Start, first: Upstream, second: Upstream) -> tuple[Service, Counts]:
    """Two stream replicas; upload and socket are the second one alone."""
    (port,) = free_ports(1)
    gateway = start_service(
        "gateway",
        GRIDCAST_METRICS_PORT=str(port),
        GRIDCAST_STREAM_URLS=f"{first.url},{second.url}",
        GRIDCAST_UPLOAD_URLS=second.url,
        GRIDCAST_SOCKET_URLS=second.url,
        GRIDCAST_RESPONSE_HEADER_TIMEOUT="1",
        GRIDCAST_MAX_TUNNELS="2",
    )
    return gateway, Counts(port)


def test_what_is_known_of_the_services(gateway: tuple[Service, Counts]) -> None:
    _, counts = gateway
    assert [counts.value("upstream_replicas", upstream=name) for name in ("upload", "stream", "socket")] == [1, 2, 1]
    assert counts.grown() == {}


def test_a_replica_that_is_away(gateway: tuple[Service, Counts], first: Upstream) -> None:
    service, counts = gateway
    first.stop()
    for _ in range(4):
        assert ask(service.port, "GET", "/file").status == 200
    assert counts.grown() == {"upstream_ejections_total stream": 1}
    first.start()


def test_a_request_that_is_asked_again(gateway: tuple[Service, Counts], first: Upstream, second: Upstream) -> None:
    """Its kept connection ended, which is no fault; then the replica breaks off itself, which is one."""
    service, counts = gateway

    async def hang_up(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.transport.abort()

    first.answer = hang_up
    while len(first.requests) < 1:
        assert ask(service.port, "GET", "/file").status == 200
    assert counts.grown() == {"upstream_retries_total stream": 1}
    while len(first.requests) < 2:
        assert ask(service.port, "GET", "/file").status == 200
    assert counts.grown() == {"upstream_retries_total stream": 2, "upstream_ejections_total stream": 1}


def test_what_no_replica_answered(gateway: tuple[Service, Counts], first: Upstream, second: Upstream) -> None:
    service, counts = gateway
    first.answer = second.answer = silent
    assert ask(service.port, "GET", "/sockets").status == 504
    second.answer = say(b"220 ready\r\n\r\n")
    assert ask(service.port, "PUT", "/file/stream?filename=a", b"a").status == 502
    second.answer = say(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert ask(service.port, "PUT", "/file/stream?filename=a", b"a").status == 503, "that was answered"
    assert counts.grown() == {
        "upstream_errors_total 504 socket": 1,
        "upstream_ejections_total socket": 1,
        "upstream_errors_total 502 upload": 1,
        "upstream_ejections_total upload": 1,
    }


def test_tunnels_and_who_is_refused_one(gateway: tuple[Service, Counts], second: Upstream) -> None:
    async def accept(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.read(1)
        raise ConnectionError

    service, counts = gateway
    second.answer = accept
    with connect(service.port) as one, connect(service.port) as other:
        for client in (one, other):
            client.sendall(HANDSHAKE + b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
        assert counts.value("tunnels") == 2
        assert statuses(talk(service.port, HANDSHAKE + b"\r\n")) == [503]
        assert statuses(talk(service.port, HANDSHAKE + b"Origin: http://evil\r\n\r\n")) == [403]
        assert counts.grown() == {"refused_total websocket": 2}
    eventually(lambda: counts.value("tunnels") == 0, 5, "they are over")


def test_who_asks_too_often(start_service: Start, first: Upstream) -> None:
    (port,) = free_ports(1)
    gateway = start_service(
        "gateway",
        ready=False,
        GRIDCAST_METRICS_PORT=str(port),
        GRIDCAST_STREAM_URLS=first.url,
        GRIDCAST_REQUEST_RATE_PER_CLIENT="1",
    )
    eventually(lambda: "running on" in gateway.log, 10)
    first.answer = say(OK)
    counts = Counts(port)
    answers = [ask(gateway.port, "GET", "/file").status for _ in range(6)]
    assert answers.count(429) >= 3
    assert counts.grown() == {"refused_total rate": answers.count(429)}
