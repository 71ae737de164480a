"""`GET /status` of the gateway: what it gathers from replicas that answer, refuse, talk nonsense or are away."""

import json
from collections.abc import Iterator

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.support.processes import ServiceProcess, StartService
from tests.support.scripted_upstream import ScriptedUpstream, respond_with, run_upstream, upstream_env
from tests.support.tokens import AUTH_ENV

STATUS = {
    "ready": True,
    "checks": {"store": "ok"},
    "version": "0.2.0",
    "uptime": 5.5,
    "figures": {"requests": 7.0},
}
PROBLEM = {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "insufficient_scope: this needs admin"}


def response(status: str, document: object, *fields: str) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "content-type: application/json", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def second() -> Iterator[ScriptedUpstream]:
    with run_upstream() as upstream:
        yield upstream


@pytest.fixture
def gateway(start_service: StartService, upstream: ScriptedUpstream, second: ScriptedUpstream) -> ServiceProcess:
    upstream.reset()
    second.reset()
    upstream.responder = second.responder = respond_with(response("200 OK", STATUS))
    return start_service("gateway", **upstream_env(upstream, second))


def test_every_replica_is_asked_with_the_callers_token(
    gateway: ServiceProcess, upstream: ScriptedUpstream, second: ScriptedUpstream
) -> None:
    answer = httpx.get(f"{gateway.url}/status", headers={"authorization": "Bearer a.b.c", "x-other": "1"})
    assert answer.status_code == 200
    document = answer.json()
    assert [service["service"] for service in document["services"]] == ["upload", "stream", "socket", "live"]
    for service in document["services"]:
        assert service["ready"] is True
        assert service["replicas"] == [{**STATUS, "address": one.url} for one in (upstream, second)]
    assert document["gateway"]["figures"]["requests"] >= 0
    assert document["gateway"]["figures"]["memory_bytes"] > 1_000_000
    assert document["gateway"]["version"] == "0.2.0"
    asked = upstream.requests + second.requests
    assert {(request.get("authorization"), request.get("x-other")) for request in asked} == {("Bearer a.b.c", None)}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (response("503 Service Unavailable", {"detail": "starting"}), "starting"),
        (response("200 OK", b"<html>"), "not ready"),
        (response("200 OK", {"ready": "perhaps"}), "not ready"),
        (b"nonsense\r\n\r\n", "no answer"),
    ],
)
def test_replica_without_a_status_is_shown_as_silent(
    gateway: ServiceProcess, second: ScriptedUpstream, raw: bytes, reason: str
) -> None:
    second.responder = respond_with(raw)
    for service in httpx.get(f"{gateway.url}/status").json()["services"]:
        assert service["ready"] is True, "the other one is ready"
        silent = service["replicas"][1]
        assert (silent["ready"], silent["version"], silent["checks"]) == (False, None, {"process": reason})


@pytest.mark.parametrize("status", [401, 403])
def test_one_refusal_is_the_response(gateway: ServiceProcess, second: ScriptedUpstream, status: int) -> None:
    challenge = 'Bearer realm="gridcast", error="insufficient_scope", scope="admin"'
    second.responder = respond_with(response(f"{status} Refused", PROBLEM, f"www-authenticate: {challenge}"))
    answer = httpx.get(f"{gateway.url}/status")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (status, challenge)
    assert answer.json()["detail"] == PROBLEM["detail"]
    assert "figures" not in answer.text


def test_nothing_is_shown_where_nobody_can_judge_the_token(start_service: StartService) -> None:
    """Without authentication the gateway still says what it sees."""
    (port,) = free_ports(1)
    urls = {f"GRIDCAST_{name}_URLS": f"http://127.0.0.1:{port}" for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")}
    closed = start_service("gateway", ready=False, **urls, GRIDCAST_AUTH=AUTH_ENV["GRIDCAST_AUTH"])
    with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
        answer = client.get(f"{closed.url}/status", headers={"authorization": "Bearer a.b.c"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "figures" not in answer.text
        opened = start_service("gateway", ready=False, **urls)
        document = client.get(f"{opened.url}/status").json()
    assert document["gateway"]["ready"] is False
    assert [service["ready"] for service in document["services"]] == [False, False, False, False]
