"""The gateway when upstreams are unreachable, die, return or hang, and its own shutdown."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.ports import free_ports
from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess, StartService
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE, close_with_reset, receive_until_closed
from tests.support.scripted_upstream import (
    GET_AND_CLOSE,
    GET_REQUEST,
    OK_RESPONSE,
    ReceivedRequest,
    Responder,
    ScriptedUpstream,
    never_respond,
    open_connection,
    parse_statuses,
    read_body,
    respond_ok,
    respond_with,
    run_upstream,
    send_raw,
    send_request,
    upstream_env,
    wait_for_access_log,
)
from tests.support.waiting import eventually

PUT_REQUEST = (
    b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"
)


@pytest.fixture
def gateway(short_timeout_gateway: ServiceProcess, upstream: ScriptedUpstream) -> ServiceProcess:
    upstream.reset()
    return short_timeout_gateway


def test_no_listening_replica_is_502_within_three_seconds(start_service: StartService) -> None:
    (port,) = free_ports(1)
    gateway = start_service("gateway", ready=False, GRIDCAST_STREAM_URLS=f"http://127.0.0.1:{port}")
    eventually(lambda: "running on" in gateway.log, 10)
    began = time.monotonic()
    for method, body in (("GET", None), ("HEAD", None)):
        assert send_request(gateway.port, method, "/file/stream", body).status == 502
    assert time.monotonic() - began < 3
    ready = send_request(gateway.port, "GET", "/readyz")
    assert ready.status == 503
    assert ready.json["checks"]["stream"] == "0 of 1 hosts ready"
    assert send_request(gateway.port, "GET", "/livez").status == 200
    own_paths = ["/livez", "/readyz", "/status", "/version"]
    assert list(send_request(gateway.port, "GET", "/openapi.json").json["paths"]) == own_paths


@pytest.mark.parametrize(
    ("method", "body", "status", "times"), [("GET", None, 200, 2), ("DELETE", None, 502, 1), ("PUT", b"x", 502, 1)]
)
def test_stale_connection_is_replaced(
    gateway: ServiceProcess, upstream: ScriptedUpstream, method: str, body: bytes | None, status: int, times: int
) -> None:
    """An upstream that closes an idle connection as the next request arrives: retried where the request is safe to repeat."""

    async def once(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(upstream.requests) == 2:
            writer.transport.abort()
            return
        await read_body(seen, reader)
        writer.write(OK_RESPONSE)

    assert send_request(gateway.port, "GET", "/file").status == 200
    upstream.reset()
    upstream.responder = once
    assert send_request(gateway.port, "GET", "/file").status == 200
    assert send_request(gateway.port, method, "/file/stream?filename=a", body).status == status
    time.sleep(0.2)
    assert len([seen for seen in upstream.requests if seen.method == method and "filename" in seen.target]) == times


def test_safe_request_is_retried_after_a_late_disconnect(start_service: StartService) -> None:
    """The other one gets the request: only connecting counts against the connect timeout."""

    async def die(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)
        writer.transport.abort()

    with run_upstream() as first, run_upstream() as second:
        gateway = start_service("gateway", **upstream_env(first, second))
        first.responder = die
        for _ in range(2):
            assert send_request(gateway.port, "GET", "/file").status == 200
        assert len(first.requests) == 1
        first.responder = second.responder = die
        assert send_request(gateway.port, "GET", "/file").status == 502
        assert len(first.requests) + len(second.requests) <= 5


async def reset_connection(
    request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Reads the request, then resets the connection."""
    del request, reader
    writer.transport.abort()


async def respond_without_http(
    request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Responds with bytes that are no HTTP."""
    del request, reader
    writer.write(b"220 ready\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize("broken", [reset_connection, respond_without_http])
@pytest.mark.parametrize("raw", [GET_AND_CLOSE, PUT_REQUEST, WEBSOCKET_HANDSHAKE], ids=["GET", "PUT", "WebSocket"])
def test_replica_that_accepts_and_never_responds_is_ejected(
    start_service: StartService, broken: Responder, raw: bytes
) -> None:
    """It is ejected: otherwise it would have the fewest requests in flight, and get the next one."""
    with run_upstream() as bad, run_upstream() as good:
        gateway = start_service("gateway", **upstream_env(bad, good))
        bad.responder = broken
        good.responder = respond_with(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        answers = [parse_statuses(send_raw(gateway.port, raw))[0] for _ in range(20)]
        assert answers.count(502) <= 2
        assert set(answers) <= {403, 502}
        assert len(bad.requests) <= 2
        assert '"upstream ejected"' in gateway.log


def test_closed_keep_alive_connection_does_not_eject_its_replica(start_service: StartService) -> None:
    async def once(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(service.requests) % 2 == 0:
            writer.transport.abort()
            return
        writer.write(OK_RESPONSE)

    with run_upstream() as service:
        gateway = start_service("gateway", **upstream_env(service))
        service.responder = once
        for _ in range(5):
            assert send_request(gateway.port, "GET", "/file").status == 200
        assert '"upstream ejected"' not in gateway.log


@contextlib.contextmanager
def unresponsive_url() -> Iterator[str]:
    """The URL of a port that accepts no connection: a SYN is dropped."""
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # fills the backlog
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


def test_unconnectable_replicas_are_502_within_three_seconds(start_service: StartService) -> None:
    """For a WebSocket as well."""
    with contextlib.ExitStack() as holes:
        urls = ",".join(holes.enter_context(unresponsive_url()) for _ in range(8))
        gateway = start_service("gateway", ready=False, GRIDCAST_STREAM_URLS=urls, GRIDCAST_SOCKET_URLS=urls)
        eventually(lambda: "running on" in gateway.log, 10)
        for raw in (GET_AND_CLOSE, WEBSOCKET_HANDSHAKE):
            began = time.monotonic()
            assert parse_statuses(send_raw(gateway.port, raw)) == [502]
            assert time.monotonic() - began < 3


def test_one_of_two_replicas_is_killed_and_restarted_under_load(start_service: StartService) -> None:
    with run_upstream() as first, run_upstream() as second:
        gateway = start_service("gateway", **upstream_env(first, second))
        stop = threading.Event()
        failed: list[int] = []
        served = [0]

        def load() -> None:
            while not stop.is_set():
                status = send_request(gateway.port, "GET", "/file").status
                served[0] += 1
                if status != 200:
                    failed.append(status)

        users = [threading.Thread(target=load) for _ in range(4)]
        for user in users:
            user.start()
        eventually(lambda: first.requests and second.requests, 5, "both are asked")
        first.stop()
        time.sleep(1.5)
        second.requests.clear()
        eventually(lambda: len(second.requests) > 20, 5, "the other goes on")
        first.requests.clear()
        first.start()
        began = time.monotonic()
        eventually(lambda: len(first.requests) > 20, 10, "it is back")
        assert time.monotonic() - began < 10
        stop.set()
        for user in users:
            user.join()
        assert not failed
        assert served[0] > 100
        assert gateway.log.count('"upstream ejected"') >= 1


def test_recovered_replica_gets_slow_uploads(start_service: StartService) -> None:
    """Each is active for as long as the test: none of them is the health check that the others wait for."""
    head = b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with run_upstream() as first, run_upstream() as second, contextlib.ExitStack() as uploads:
        gateway = start_service("gateway", **upstream_env(first, second))
        first.stop()
        put = ("PUT", "/file/stream?filename=a", b"a")
        eventually(lambda: send_request(gateway.port, *put).status == 200 and '"upstream ejected"' in gateway.log, 5)
        first.start()
        began = time.monotonic()
        while len(first.requests) < 4:
            client = uploads.enter_context(open_connection(gateway.port))
            client.sendall(head + bytes(2000))
            time.sleep(0.1)
            assert time.monotonic() - began < 10
        assert first.active_requests == 4


def test_hanging_replica_stays_ejected(start_service: StartService) -> None:
    """The kernel accepts its connections: only a response proves that it works."""
    with run_upstream() as well, socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen(100)
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        gateway = start_service(
            "gateway", ready=False, GRIDCAST_RESPONSE_HEADER_TIMEOUT="1", GRIDCAST_STREAM_URLS=f"{url},{well.url}"
        )
        eventually(lambda: "running on" in gateway.log, 10)
        found = [send_request(gateway.port, "GET", "/file").status for _ in range(10)]
        assert found.count(504) == 1
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert send_request(gateway.port, "GET", "/file").status == 200
            time.sleep(0.05)


def test_websockets_open_while_a_replica_is_killed_and_restarted(start_service: StartService) -> None:
    async def accept(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await never_respond(seen, reader, writer)

    def opened(port: int) -> bool:
        with open_connection(port) as client:
            client.sendall(WEBSOCKET_HANDSHAKE)
            return client.recv(65536).startswith(b"HTTP/1.1 101 ")

    with run_upstream() as first, run_upstream() as second:
        first.responder = second.responder = accept
        gateway = start_service("gateway", **upstream_env(first, second))
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(open_connection(gateway.port)) for _ in range(10)]
            for client in clients:
                client.sendall(WEBSOCKET_HANDSHAKE)
                assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
            assert first.active_requests == second.active_requests == 5, "they share the load"
            first.stop()
            assert all(opened(gateway.port) for _ in range(30))
            ended = [client for client in clients if is_closed(client)]
            assert len(ended) == 5, "those of the dead one have ended, the others have not"
        first.requests.clear()
        first.start()
        eventually(lambda: opened(gateway.port) and first.requests, 10, "it is back")


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.3)
    try:
        return not client.recv(1)
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_hanging_replica_gets_no_more_than_its_share(start_service: StartService) -> None:
    with run_upstream() as hanging, run_upstream() as well:
        gateway = start_service("gateway", **upstream_env(hanging, well))
        hanging.responder = never_respond
        held = [open_connection(gateway.port) for _ in range(4)]
        try:
            for client in held:
                client.sendall(GET_REQUEST)
            eventually(lambda: len(hanging.requests) + len(well.requests) == len(held), 5)
            stuck = len(hanging.requests)
            for _ in range(20):
                assert send_request(gateway.port, "GET", "/file").status == 200
            assert len(hanging.requests) == stuck
        finally:
            for client in held:
                client.close()


@pytest.mark.parametrize(
    "how", ["while the service takes nothing", "by a reset", "before a 100", "behind another request"]
)
def test_client_disconnect_stops_the_retries(start_service: StartService, how: str) -> None:
    """Within a second, in every phase of the exchange."""

    async def stuck(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(20)

    put = b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
    with run_upstream() as service:
        service.responder = stuck
        gateway = start_service("gateway", **upstream_env(service))
        with open_connection(gateway.port) as client:
            match how:
                case "before a 100":
                    client.sendall(put + b"Expect: 100-continue\r\n\r\n")
                case "behind another request":
                    client.sendall(GET_REQUEST + GET_REQUEST)
                case _:
                    client.sendall(put + b"\r\n")
                    client.settimeout(2)
                    with contextlib.suppress(TimeoutError):
                        client.sendall(bytes(4_000_000))
            eventually(lambda: service.active_requests, 5)
            time.sleep(0.7)
            if how in {"by a reset", "behind another request"}:  # behind complete requests a FIN may be half of a close
                close_with_reset(client)
        gone = time.time()
        (line,) = wait_for_access_log(gateway, 499)
        assert line["time"] - gone < 1


def test_descriptor_exhaustion_rejects_requests_and_recovers(start_service: StartService) -> None:
    """Case 101: 64 descriptors and 200 connections."""
    with run_upstream() as service, contextlib.ExitStack() as crowd:
        gateway = start_service("gateway", **upstream_env(service))
        limits = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (64, limits[1]))
        for _ in range(200):
            client = crowd.enter_context(open_connection(gateway.port))
            with contextlib.suppress(OSError):
                client.sendall(GET_REQUEST)
        time.sleep(0.5)
        crowd.close()
        eventually(lambda: send_request(gateway.port, "GET", "/file").status == 200, 10, "it serves again")


def test_descriptor_exhaustion_ejects_no_replica(start_service: StartService) -> None:
    with run_upstream() as service, contextlib.ExitStack() as clients:
        gateway = start_service("gateway", **upstream_env(service))
        service.responder = never_respond
        *busy, waiting, upgrading = [clients.enter_context(open_connection(gateway.port)) for _ in range(12)]
        for client in busy:  # which closes all idle connections
            client.sendall(GET_REQUEST)
        eventually(lambda: service.active_requests == len(busy), 5)
        service.responder = respond_ok
        held = sorted(int(one.name) for one in Path(f"/proc/{gateway.pid}/fd").iterdir())
        limits = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(
            gateway.pid, resource.RLIMIT_NOFILE, (next(at for at in range(999) if at not in held), limits[1])
        )
        for client, raw in ((upgrading, WEBSOCKET_HANDSHAKE), (waiting, GET_REQUEST)):
            client.sendall(raw)
            assert parse_statuses(client.recv(65536)) == [503]
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, limits)
        assert send_request(gateway.port, "GET", "/file").status == 200
        assert '"upstream ejected"' not in gateway.log


def test_concurrent_document_requests_fetch_each_service_once(start_service: StartService) -> None:
    async def slowly(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        await asyncio.sleep(0.5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with run_upstream() as service, contextlib.ExitStack() as clients:
        gateway = start_service("gateway", **upstream_env(service))
        service.responder = slowly
        asking = [clients.enter_context(open_connection(gateway.port)) for _ in range(20)]
        for client in asking:
            client.sendall(GET_AND_CLOSE.replace(b"/file ", b"/openapi.json "))
        assert [parse_statuses(receive_until_closed(client)) for client in asking] == [[200]] * 20
        assert len(service.requests) == 4


def test_a_service_given_by_name_is_looked_up(start_service: StartService) -> None:
    with run_upstream() as service:
        urls = {name: url.replace("127.0.0.1", "localhost") for name, url in upstream_env(service).items()}
        gateway = start_service("gateway", **urls)
        assert send_request(gateway.port, "GET", "/file").status == 200
        assert service.requests[0].get("host") == f"127.0.0.1:{gateway.port}"


def test_at_sigterm_open_requests_are_finished_and_new_connections_refused(start_service: StartService) -> None:
    async def slowly(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(1)
        writer.write(OK_RESPONSE)

    with run_upstream() as service:
        service.responder = slowly
        gateway = start_service("gateway", **upstream_env(service))
        with open_connection(gateway.port) as client:
            client.sendall(GET_REQUEST)
            eventually(lambda: service.requests, 5)
            stopping = threading.Thread(target=gateway.terminate)
            stopping.start()
            assert parse_statuses(receive_until_closed(client)) == [200]
            stopping.join()
        with pytest.raises(ConnectionRefusedError):
            open_connection(gateway.port)
        assert "Traceback" not in gateway.log


def test_open_requests_are_aborted_and_logged_at_the_shutdown_timeout(start_service: StartService) -> None:
    with run_upstream() as service:
        service.responder = never_respond
        gateway = start_service("gateway", GRIDCAST_SHUTDOWN_TIMEOUT="1", **upstream_env(service))
        with open_connection(gateway.port) as client:
            client.sendall(GET_REQUEST)
            eventually(lambda: service.requests, 5)
            stopping = threading.Thread(target=gateway.terminate)
            stopping.start()
            assert parse_statuses(receive_until_closed(client)) == [503]
            stopping.join()
        assert "Traceback" not in gateway.log


@pytest.mark.long
def test_memory_stays_flat_over_gigabytes(start_service: StartService) -> None:
    """5 GiB up and 5 GiB down: at most 32 MiB more (P16)."""
    size = 5 * 1024**3

    async def count(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(seen.get("content-length") or 0)
        while left:
            left -= len(await reader.read(1 << 20))
        if seen.method == "PUT":
            writer.write(OK_RESPONSE)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        data = os.urandom(1 << 20)
        for _ in range(size >> 20):
            writer.write(data)
            await writer.drain()

    with run_upstream() as service:
        service.responder = count
        gateway = start_service("gateway", **upstream_env(service))
        send_request(gateway.port, "GET", "/openapi.json")
        before = resident_memory(gateway.pid)
        most = before
        with open_connection(gateway.port, 60) as client:
            client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
            data = os.urandom(1 << 20)
            for at in range(size >> 20):
                client.sendall(data)
                if at % 64 == 0:
                    most = max(most, resident_memory(gateway.pid))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            client.sendall(GET_AND_CLOSE.replace(b"/file ", b"/file/stream "))
            received = at = 0
            while data := client.recv(1 << 20):
                received += len(data)
                at += 1
                if at % 64 == 0:
                    most = max(most, resident_memory(gateway.pid))
        assert received > size
        print(json.dumps({"before": before, "most": most, "grew": most - before}))
        assert most - before < 32 * 1024 * 1024
