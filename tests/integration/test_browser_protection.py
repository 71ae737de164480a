"""DNS rebinding and cross-site requests to the gateway and to each service directly, as pages can make a browser send them."""

import contextlib
import itertools
import socket
from collections.abc import Mapping

import httpx
import pytest

from deploy.local.ports import free_ports
from tests.support.processes import StartService
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.scripted_upstream import respond_with, run_upstream, send_request, upstream_env
from tests.support.stack import Stack

PROCESSES = ("gateway", "upload-1", "stream-1", "socket-1", "live-1")
WITH_WEBSOCKETS = ("gateway", "socket-1")
UPLOADING = ("gateway", "upload-1")
CROSS_SITE = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
_numbers = itertools.count()


def port_of(stack: Stack, process: str) -> int:
    return httpx.URL(stack.urls[process]).port or 80


def request(
    stack: Stack, process: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.request(method, stack.urls[process] + path, headers=dict(headers), content=body)


def shake_hands(port: int, host: str, fields: str = "") -> int:
    """Return the status of a WebSocket handshake."""
    handshake = WEBSOCKET_HANDSHAKE.decode().replace("Host: localhost\r\n", f"Host: {host}\r\n{fields}").encode()
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 10)) as client:
        client.sendall(handshake)
        return int(client.recv(65536).split(b" ", 2)[1])


def is_stored(stack: Stack, name: str) -> bool:
    return request(stack, "gateway", "GET", f"/file/info?folder=foreign&filename={name}", {}).status_code == 200


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:{port}", 200),
        ("page.localhost", 200),
        ("127.0.0.1:{port}", 200),
        ("[::1]:{port}", 200),
        ("10.9.8.7", 200),  # a pod's address, as a probe of Kubernetes has it
        ("attacker.example:{port}", 421),
        ("attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
    ],
)
def test_only_own_names_are_answered(stack: Stack, process: str, host: str, expected: int) -> None:
    own = host.format(port=port_of(stack, process))
    for path in ("/livez", "/readyz", "/version"):
        response = request(stack, process, "GET", path, {"Host": own})
        assert response.status_code == expected, path
        assert response.headers["x-request-id"]
    if expected == 421:
        assert response.json()["detail"].endswith("GRIDCAST_ALLOWED_HOSTS lists those that are")
        # What a rebound page may add: its own origin, which is that of Host, and any other field.
        fields = {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin", "X-Forwarded-Host": "localhost"}
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            assert request(stack, process, method, "/file", {"Host": own, **fields}).status_code == 421


@pytest.mark.parametrize("process", WITH_WEBSOCKETS)
def test_websockets_of_own_pages_and_of_programs(stack: Stack, process: str) -> None:
    port = port_of(stack, process)
    own = f"127.0.0.1:{port}"
    assert shake_hands(port, own) == 101
    assert shake_hands(port, own, "Cookie: AWSALB=abc; AWSALBCORS=abc\r\n") == 101
    assert shake_hands(port, own, f"Origin: http://{own}\r\n") == 101
    assert shake_hands(port, own, f"Origin: http://{own}\r\nCookie: a=b\r\nSec-Fetch-Site: same-origin\r\n") == 101
    assert shake_hands(port, "127.0.0.1:80", "Origin: http://127.0.0.1\r\n") == 101
    assert shake_hands(port, "127.0.0.1:443", "Origin: https://127.0.0.1\r\n") == 101
    assert shake_hands(port, own, "Origin: http://evil.example\r\nCookie: a=b\r\n") == 403
    assert shake_hands(port, own, f"Origin: http://localhost:{port}\r\n") == 403
    assert shake_hands(port, own, "Origin: null\r\n") == 403
    assert shake_hands(port, own, "Sec-Fetch-Site: cross-site\r\n") == 403
    assert shake_hands(port, f"attacker.example:{port}", f"Origin: http://attacker.example:{port}\r\n") == 421


@pytest.mark.parametrize("process", UPLOADING)
@pytest.mark.parametrize(
    "said",
    [
        CROSS_SITE,
        {"Origin": "http://evil.example"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_foreign_pages_store_nothing(stack: Stack, process: str, said: dict[str, str]) -> None:
    number = next(_numbers)
    head = f'--B\r\nContent-Disposition: form-data; name="file"; filename="form-{number}"\r\n\r\nx\r\n--B--\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=B", **said}
    answers = [
        request(stack, process, "POST", "/file/upload?folder=foreign", multipart, head.encode()),
        request(stack, process, "PUT", f"/file/stream?folder=foreign&filename=put-{number}", said, b"x"),
        request(stack, process, "POST", "/file/tus", {"Tus-Resumable": "1.0.0", "Upload-Length": "1", **said}),
        request(stack, process, "DELETE", f"/file/stream?folder=foreign&filename=put-{number}", said),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert all("GRIDCAST_ALLOWED_ORIGINS" in answer.json()["detail"] for answer in answers)
    assert not is_stored(stack, f"form-{number}")
    assert not is_stored(stack, f"put-{number}")


@pytest.mark.parametrize("process", ["gateway", "socket-1"])
def test_foreign_pages_push_nothing(stack: Stack, process: str) -> None:
    plain = {"Content-Type": "text/plain", **CROSS_SITE}
    for method, path in (("POST", "/sockets/messages"), ("DELETE", "/sockets/A")):
        assert request(stack, process, method, path, plain, b'{"type": "a"}').status_code == 403


@pytest.mark.parametrize("process", UPLOADING)
def test_own_pages_and_programs_store(stack: Stack, process: str) -> None:
    own = f"http://127.0.0.1:{port_of(stack, process)}"
    for said in ({}, {"Origin": own}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        path = f"/file/stream?folder=own&filename=put-{next(_numbers)}"
        assert request(stack, process, "PUT", path, said, b"x").status_code == 201, said


@pytest.mark.parametrize("process", ["gateway", "stream-1"])
def test_stored_files_are_kept_from_foreign_pages(stack: Stack, process: str) -> None:
    path = f"/file/stream?folder=own&filename=script-{next(_numbers)}.js"
    assert request(stack, "gateway", "PUT", path, {"Content-Type": "text/javascript"}, b"leak = 1").status_code == 201
    for headers in ({}, CROSS_SITE, {"Range": "bytes=0-1"}, {"Referer": "http://evil.example/"}):
        # The second answer may come from memory, around the application.
        for _ in range(2):
            answer = request(stack, process, "GET", path, headers)
            assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
    unchanged = request(stack, process, "GET", path, {"If-None-Match": answer.headers["etag"]})
    assert unchanged.status_code == 304
    assert unchanged.headers["cross-origin-resource-policy"] == "same-origin"
    missing = request(stack, process, "GET", "/file/stream?filename=no-such-file", CROSS_SITE)
    assert missing.status_code == 404
    assert missing.headers.get_list("cross-origin-resource-policy") == ["same-origin"]


def test_settings_of_the_gateway(start_service: StartService) -> None:
    with run_upstream() as service:
        service.responder = respond_with(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCross-Origin-Resource-Policy: same-site\r\n\r\nok"
        )
        (metrics_port,) = free_ports(1)
        gateway = start_service(
            "gateway",
            **upstream_env(service)
            | {
                "GRIDCAST_ALLOWED_HOSTS": "media.example,*.cdn.example",
                "GRIDCAST_ALLOWED_ORIGINS": "https://app.example",
                "GRIDCAST_TRUSTED_PROXIES": "127.0.0.1",
                "GRIDCAST_METRICS_PORT": str(metrics_port),
            },
        )

        def status(method: str, **fields: str) -> int:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            return send_request(gateway.port, method, "/file/stream?filename=a", headers=headers).status

        assert status("GET", Host="media.example") == 200
        assert status("GET", Host="a.CDN.example:443") == 200
        assert status("GET", Host="cdn.example") == 421
        assert status("GET") == 200
        assert status("PUT", Origin="https://app.example:443", Sec_Fetch_Site="cross-site") == 200
        assert status("PUT", Origin="http://app.example") == 403
        # Behind a proxy that ends TLS; Host as nginx writes it with `$http_host`, `$host:$server_port`, and without either.
        for host in ("media.example", "media.example:443", "media.example:80"):
            assert status("PUT", Host=host, Origin="https://media.example") == 200
        assert status("PUT", Host="media.example:8443", Origin="https://media.example") == 403
        replaced = {"Host": "127.0.0.1:8000", "Origin": "https://media.example"}
        assert status("PUT", **replaced) == 403
        assert status("PUT", **replaced, X_Forwarded_Host="media.example") == 200
        assert status("PUT", **replaced, Sec_Fetch_Site="same-origin") == 200
        downgraded = {"Host": "media.example", "Origin": "http://media.example"}
        assert status("PUT", **downgraded) == 200
        assert status("PUT", **downgraded, X_Forwarded_Proto="https") == 403
        judged = [(seen.method, seen.get("origin"), seen.get("sec-fetch-site")) for seen in service.requests]
        assert {entry for entry in judged if entry[0] != "GET"} == {("PUT", None, None)}

        def policy(**fields: str) -> list[str] | None:
            return send_request(gateway.port, "GET", "/file", headers=fields).headers.get_all(
                "cross-origin-resource-policy"
            )

        assert policy() == policy(Origin="https://evil.example") == ["same-origin"]
        assert policy(Origin="https://app.example") == policy(Referer="https://app.example/page") == ["cross-origin"]

        with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{metrics_port}") as client:
            assert client.get("/metrics").status_code == 200
            assert client.get("/metrics", headers={"Host": "media.example"}).status_code == 200
            rebound = client.get("/metrics", headers={"Host": "attacker.example"})
            assert (rebound.status_code, "gridcast_" in rebound.text) == (421, False)
            counted = client.get("/metrics").text
        for reason in ("host", "origin"):
            assert f'gridcast_requests_rejected_total{{reason="{reason}"}}' in counted
