"""The gateway's own metrics, as Prometheus scrapes them."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from tests.support.processes import ServiceProcess, StartService
from tests.support.scripted_upstream import (
    OK_RESPONSE,
    ReceivedRequest,
    ScriptedUpstream,
    never_respond,
    open_connection,
    parse_statuses,
    respond_with,
    run_upstream,
    send_raw,
    send_request,
)
from tests.support.waiting import eventually

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class MetricsClient:
    """The gateway's metrics, and how much they grew."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._baseline = self._read()

    def _read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(httpx.get(self._url).raise_for_status().text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def value(self, name: str, **labels: str) -> float:
        return self._read().get((f"gridcast_{name}", frozenset(labels.items())), 0.0)

    def changed_counters(self) -> dict[str, float]:
        """The gateway's own counters that have changed, by name and labels."""
        found = {}
        for (name, labels), value in self._read().items():
            more = value - self._baseline.get((name, labels), 0.0)
            if (
                more
                and name.startswith(("gridcast_upstream", "gridcast_requests_rejected"))
                and not name.endswith("_created")
            ):
                found[" ".join([name.removeprefix("gridcast_"), *sorted(value for _, value in labels)])] = more
        return found


@pytest.fixture
def first_upstream() -> Iterator[ScriptedUpstream]:
    with run_upstream() as service:
        yield service


@pytest.fixture
def second_upstream() -> Iterator[ScriptedUpstream]:
    with run_upstream() as service:
        yield service


@pytest.fixture
def gateway(
    start_service: StartService, first_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream
) -> tuple[ServiceProcess, MetricsClient]:
    """Two stream replicas; the other services are the second one alone."""
    (port,) = free_ports(1)
    gateway = start_service(
        "gateway",
        GRIDCAST_METRICS_PORT=str(port),
        GRIDCAST_STREAM_URLS=f"{first_upstream.url},{second_upstream.url}",
        GRIDCAST_UPLOAD_URLS=second_upstream.url,
        GRIDCAST_SOCKET_URLS=second_upstream.url,
        GRIDCAST_LIVE_URLS=second_upstream.url,
        GRIDCAST_RESPONSE_HEADER_TIMEOUT="1",
        GRIDCAST_MAX_TUNNELS="2",
    )
    return gateway, MetricsClient(port)


def test_upstream_states_are_exported(gateway: tuple[ServiceProcess, MetricsClient]) -> None:
    _, counts = gateway
    assert [counts.value("upstream_hosts", upstream=name) for name in ("upload", "stream", "socket")] == [1, 2, 1]
    assert counts.changed_counters() == {}


def test_unreachable_replica_is_counted(
    gateway: tuple[ServiceProcess, MetricsClient], first_upstream: ScriptedUpstream
) -> None:
    service, counts = gateway
    first_upstream.stop()
    for _ in range(4):
        assert send_request(service.port, "GET", "/file").status == 200
    assert counts.changed_counters() == {"upstream_ejections_total stream": 1}
    first_upstream.start()


def test_retries_are_counted(
    gateway: tuple[ServiceProcess, MetricsClient], first_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream
) -> None:
    """Its idle connection ended, which is no failure; then the upstream aborts a response, which is one."""
    service, counts = gateway

    async def hang_up(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.transport.abort()

    first_upstream.responder = hang_up
    while len(first_upstream.requests) < 1:
        assert send_request(service.port, "GET", "/file").status == 200
    assert counts.changed_counters() == {"upstream_retries_total stream": 1}
    while len(first_upstream.requests) < 2:
        assert send_request(service.port, "GET", "/file").status == 200
    assert counts.changed_counters() == {"upstream_retries_total stream": 2, "upstream_ejections_total stream": 1}


def test_gateway_errors_are_counted(
    gateway: tuple[ServiceProcess, MetricsClient], first_upstream: ScriptedUpstream, second_upstream: ScriptedUpstream
) -> None:
    service, counts = gateway
    first_upstream.responder = second_upstream.responder = never_respond
    assert send_request(service.port, "GET", "/sockets").status == 504
    second_upstream.responder = respond_with(b"220 ready\r\n\r\n")
    assert send_request(service.port, "PUT", "/file/stream?filename=a", b"a").status == 502
    second_upstream.responder = respond_with(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert send_request(service.port, "PUT", "/file/stream?filename=a", b"a").status == 503, "that was a response"
    assert counts.changed_counters() == {
        "upstream_errors_total 504 socket": 1,
        "upstream_ejections_total socket": 1,
        "upstream_errors_total 502 upload": 1,
        "upstream_ejections_total upload": 1,
    }


def test_open_and_rejected_tunnels_are_counted(
    gateway: tuple[ServiceProcess, MetricsClient], second_upstream: ScriptedUpstream
) -> None:
    async def accept(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.read(1)
        raise ConnectionError

    service, counts = gateway
    second_upstream.responder = accept
    with open_connection(service.port) as one, open_connection(service.port) as other:
        for client in (one, other):
            client.sendall(HANDSHAKE + b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
        assert counts.value("websocket_tunnels") == 2
        assert parse_statuses(send_raw(service.port, HANDSHAKE + b"\r\n")) == [503]
        assert parse_statuses(send_raw(service.port, HANDSHAKE + b"Origin: http://evil\r\n\r\n")) == [403]
        assert counts.changed_counters() == {"requests_rejected_total websocket_handshake": 2}
    eventually(lambda: counts.value("websocket_tunnels") == 0, 5, "they are over")


def test_rate_limited_requests_are_counted(start_service: StartService, first_upstream: ScriptedUpstream) -> None:
    (port,) = free_ports(1)
    gateway = start_service(
        "gateway",
        ready=False,
        GRIDCAST_METRICS_PORT=str(port),
        GRIDCAST_STREAM_URLS=first_upstream.url,
        GRIDCAST_REQUEST_RATE_PER_CLIENT="1",
    )
    eventually(lambda: "running on" in gateway.log, 10)
    first_upstream.responder = respond_with(OK_RESPONSE)
    counts = MetricsClient(port)
    statuses = [send_request(gateway.port, "GET", "/file").status for _ in range(6)]
    assert statuses.count(429) >= 3
    assert counts.changed_counters() == {"requests_rejected_total rate_limit": statuses.count(429)}
