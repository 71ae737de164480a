"""Admission at the gateway: origins, CORS, rate limits, and the number of tunnels."""

import asyncio
from collections.abc import Callable

from tests.support.processes import StartService
from tests.support.scripted_upstream import (
    ReceivedRequest,
    open_connection,
    parse_statuses,
    respond_with,
    run_upstream,
    send_raw,
    send_request,
    upstream_env,
)
from tests.support.waiting import eventually


def test_origins_cors_and_rates(start_service: StartService) -> None:
    with run_upstream() as service:
        service.responder = respond_with(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: http://theirs\r\n\r\nok"
        )
        limits = {
            "GRIDCAST_ALLOWED_ORIGINS": "http://b.example",
            "GRIDCAST_REQUEST_RATE_PER_CLIENT": "5",
            "GRIDCAST_TRUSTED_PROXIES": "127.0.0.0/8",
        }
        gateway = start_service("gateway", **upstream_env(service), **limits)

        def from_(client: str, method: str = "GET", path: str = "/file", **fields: str) -> Callable[[str], str | None]:
            headers = {name.replace("_", "-"): value for name, value in fields.items()} | {"X-Forwarded-For": client}
            response = send_request(gateway.port, method, path, headers=headers)
            return lambda name: str(response.status) if name == "status" else response.headers.get(name)

        theirs = from_("1.0.0.1", Origin="http://b.example")
        assert theirs("access-control-allow-origin") == "http://b.example"
        assert theirs("vary") == "Origin"
        assert from_("1.0.0.1", Origin="http://evil")("access-control-allow-origin") is None
        refused = from_("1.0.0.1", path="/nothing", Origin="http://b.example")
        assert (refused("status"), refused("access-control-allow-origin")) == ("404", "http://b.example")
        preflight_request = {
            "Access_Control_Request_Method": "PATCH",
            "Access_Control_Request_Headers": "upload-offset",
        }
        preflight = from_("1.0.0.1", "OPTIONS", "/file/tus/x", Origin="http://b.example", **preflight_request)
        assert preflight("status") == "204"
        assert preflight("access-control-allow-headers") == "upload-offset"
        assert "PATCH" in (preflight("access-control-allow-methods") or "")
        found = [from_("2.0.0.2")("status") for _ in range(15)]
        assert found[:10] == ["200"] * 10
        assert "429" in found
        assert from_("2.0.0.3")("status") == "200"
        assert from_("2.0.0.2", path="/livez")("status") == "200"


def test_request_id_of_a_trusted_proxy_is_kept(start_service: StartService) -> None:
    with run_upstream() as service:
        service.responder = respond_with(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        gateway = start_service("gateway", **upstream_env(service), GRIDCAST_TRUSTED_PROXIES="127.0.0.1")
        named = {"X-Request-ID": "abc-1", "X-Forwarded-For": "1.0.0.1"}
        response = send_request(gateway.port, "GET", "/file", headers=named)
        assert response.headers.get_all("x-request-id") == ["abc-1"]
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert send_request(gateway.port, "GET", "/ws", headers=named | upgrade).status == 403
        assert [seen.get_all("x-request-id") for seen in service.requests] == [["abc-1"], ["abc-1"]]
        eventually(lambda: gateway.log.count('"request_id": "abc-1"') >= 2, 5)


def test_connection_limit_and_foreign_origins_are_enforced_before_the_upstream(start_service: StartService) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )

    async def accept(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        raise ConnectionError

    with run_upstream() as service:
        service.responder = accept
        gateway = start_service("gateway", GRIDCAST_MAX_TUNNELS="2", **upstream_env(service))
        for origin in (b"http://evil.example", b"null"):
            assert parse_statuses(send_raw(gateway.port, handshake + b"Origin: " + origin + b"\r\n\r\n")) == [403]
        foreign = b"Cookie: a=b\r\nOrigin: http://evil.example\r\n\r\n"
        assert parse_statuses(send_raw(gateway.port, handshake + foreign)) == [403]
        assert not service.requests
        # The cookies of an app's cookie jar, a balancer's for example: without an Origin it is no browser.
        with open_connection(gateway.port) as native_app:
            native_app.sendall(handshake + b"Cookie: a=b\r\n\r\n")
            assert native_app.recv(100).startswith(b"HTTP/1.1 101 ")
        eventually(lambda: gateway.log.count('"status": 101') == 1, 5)
        with open_connection(gateway.port) as first, open_connection(gateway.port) as second:
            for client in (first, second):
                client.sendall(handshake + b"Origin: http://a\r\n\r\nearly")
                received = b""
                while not received.endswith(b"early"):
                    received += client.recv(65536)
                assert received.startswith(b"HTTP/1.1 101 ")
            third = send_raw(gateway.port, handshake + b"\r\n")
            assert parse_statuses(third) == [503]
            assert b"retry-after" in third
            first.sendall(b"still there")
            assert first.recv(100) == b"still there"
            second.close()
            eventually(lambda: gateway.log.count('"websocket tunnel"') >= 6, 5)
            with open_connection(gateway.port) as fourth:
                fourth.sendall(handshake + b"\r\n")
                assert fourth.recv(100).startswith(b"HTTP/1.1 101 ")
