"""The metrics of running services: valid text, right counts, and few label values."""

from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_ports
from tests.support.databases import TEST_STORE, ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.upload_client import OFFSET_CONTENT_TYPE, TUS_HEADERS, tus_metadata
from tests.support.waiting import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
StartWithMetrics = Callable[..., tuple[ServiceProcess, int]]


def scrape(port: int) -> Samples:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample_value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture
def start_with_metrics(
    start_service: StartService, mongod: ServerProcess, redis_url: str, database_name: str
) -> StartWithMetrics:
    """Start a service on the databases of this test; return it and the port of its metrics."""

    def start(module: str, **settings: str) -> tuple[ServiceProcess, int]:
        (port,) = free_ports(1)
        env = storage_env(mongod, redis_url, database_name, GRIDCAST_METRICS_PORT=str(port))
        return start_service(module, **env, **settings), port

    return start


@pytest.fixture
def stream(start_with_metrics: StartWithMetrics) -> tuple[ServiceProcess, int]:
    if TEST_STORE == "files":
        start_with_metrics("services.upload")  # which creates the tables
    return start_with_metrics("services.stream")


def test_requests_are_counted_by_route_and_status(stream: tuple[ServiceProcess, int]) -> None:
    service, port = stream
    assert httpx.get(f"{service.url}/file/stream?filename=x").status_code == 404
    assert httpx.get(f"{service.url}/file/info?filename=x").status_code == 404
    for number in range(20):
        assert httpx.get(f"{service.url}/files/nowhere/{number}").status_code == 404
        assert httpx.get(f"{service.url}/nowhere/{number}").status_code == 404
        assert httpx.request(f"WORD{number}", f"{service.url}/file/stream").status_code in {400, 405}
    samples = scrape(port)
    assert sample_value(samples, "gridcast_http_requests_total", method="GET", route="/file/stream", status="404") == 1
    assert sample_value(samples, "gridcast_http_requests_total", method="GET", route="/file/info", status="404") == 1
    assert sample_value(samples, "gridcast_http_requests_total", method="GET", route="other", status="404") == 20
    assert (
        sample_value(samples, "gridcast_http_requests_total", method="GET", route="/files/{path}", status="404") == 20
    )
    assert (
        sample_value(samples, "gridcast_http_request_duration_seconds_count", method="GET", route="/file/stream") == 1
    )
    assert sample_value(samples, "gridcast_http_requests_in_flight") == 0
    assert sample_value(samples, "process_resident_memory_bytes") > 0
    routes = {dict(labels)["route"] for name, labels in samples if name == "gridcast_http_requests_total"}
    assert routes <= {"/file/stream", "/files/{path}", "/file/info", "/readyz", "other"}


def test_the_metrics_are_not_on_the_public_port(stream: tuple[ServiceProcess, int]) -> None:
    assert httpx.get(f"{stream[0].url}/metrics").status_code == 404


def test_uploads_and_garbage_collection_runs_are_counted(start_with_metrics: StartWithMetrics) -> None:
    service, port = start_with_metrics("services.upload", GRIDCAST_GC_INTERVAL="0.1", GRIDCAST_TOMBSTONE_TTL="0")
    outcomes = {
        (way, outcome): sample_value(scrape(port), "gridcast_gc_runs_total", outcome=outcome)
        for way, outcome in (("gc", "aborted"), ("gc", "failed"))
    }
    assert set(outcomes.values()) == {0.0}
    with httpx.Client(base_url=service.url) as client:
        for status in (201, 200):  # the second one replaces the first, whose chunks the garbage collector deletes
            assert client.put("/files/a", content=b"12345").status_code == status
        assert client.put("/file/stream?filename=a", content=b"1", headers={"if-match": '"x"'}).status_code == 412
        assert client.post("/file/upload", files={"file": ("b", b"123")}).status_code == 201
        head = {**TUS_HEADERS, "upload-length": "4", "upload-metadata": tus_metadata(filename="c")}
        place = client.post("/file/tus", headers=head).headers["location"]
        for offset, data in ((0, b"12"), (2, b"34")):
            head = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": str(offset)}
            assert client.patch(place, content=data, headers=head).status_code == 204

    def swept() -> bool:
        return sample_value(scrape(port), "gridcast_gc_deleted_files_total", kind="tombstone") == 1

    eventually(swept, 10, "the replaced version is gone")
    samples = scrape(port)
    assert sample_value(samples, "gridcast_http_requests_total", method="PUT", route="/files/{path}", status="201") == 1
    uploads = {
        (labels["protocol"], labels["outcome"]): count
        for (name, pairs), count in samples.items()
        if name == "gridcast_upload_requests_total" and (labels := dict(pairs))
    }
    assert uploads == {
        ("put", "completed"): 2,
        ("put", "rejected"): 1,
        ("form", "completed"): 1,
        ("tus", "completed"): 3,
    }
    assert sample_value(samples, "gridcast_stored_bytes_total") == 5 + 5 + 3 + 4
    assert sample_value(samples, "gridcast_upload_requests_in_flight") == 0
    assert sample_value(samples, "gridcast_gc_runs_total", outcome="completed") > 0


def test_redis_subscription_state_is_exported(stream: tuple[ServiceProcess, int]) -> None:
    port = stream[1]
    eventually(
        lambda: sample_value(scrape(port), "gridcast_redis_subscription_up", subscription="invalidation") == 1,
        10,
        "live",
    )
    assert sample_value(scrape(port), "gridcast_redis_subscription_reconnects_total", subscription="invalidation") == 0
