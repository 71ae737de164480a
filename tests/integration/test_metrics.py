"""What Prometheus scrapes, from a real service: valid text, the right counts, and few label values."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from tests.launch import Service, Start
from tests.servers import Server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture
def stream(start_service: Start, mongod: Server, redis_url: str, database: str) -> tuple[Service, int]:
    (port,) = free_ports(1)
    service = start_service(
        "services.stream",
        GRIDCAST_MONGODB_URI=mongod.uri,
        GRIDCAST_MONGODB_DATABASE=database,
        GRIDCAST_REDIS_URL=redis_url,
        GRIDCAST_METRICS_PORT=str(port),
    )
    return service, port


def test_requests_are_counted_by_route_and_status(stream: tuple[Service, int]) -> None:
    service, port = stream
    assert httpx.get(f"{service.url}/file/stream?filename=x").status_code == 404
    assert httpx.get(f"{service.url}/file/info?filename=x").status_code == 404
    for number in range(20):
        assert httpx.get(f"{service.url}/nowhere/{number}").status_code == 404
        assert httpx.request(f"WORD{number}", f"{service.url}/file/stream").status_code in {400, 405}
    samples = scrape(port)
    assert value(samples, "gridcast_http_requests_total", method="GET", route="/file/stream", status="404") == 1
    assert value(samples, "gridcast_http_requests_total", method="GET", route="/file/info", status="404") == 1
    assert value(samples, "gridcast_http_requests_total", method="GET", route="other", status="404") == 20
    assert value(samples, "gridcast_http_request_seconds_count", method="GET", route="/file/stream") == 1
    assert value(samples, "gridcast_http_requests_in_flight") == 0
    assert value(samples, "process_resident_memory_bytes") > 0
    routes = {dict(labels)["route"] for name, labels in samples if name == "gridcast_http_requests_total"}
    assert routes <= {"/file/stream", "/file/info", "/readyz", "other"}


def test_the_metrics_are_not_on_the_public_port(stream: tuple[Service, int]) -> None:
    assert httpx.get(f"{stream[0].url}/metrics").status_code == 404
