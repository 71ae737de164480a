"""The gateway when others fail: clients and services that stall, die, come back, or were never there."""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deploy.local.ports import free_ports
from tests.launch import Service, Start, launched
from tests.upstreams import OK, Seen, Upstream, ask, connect, drain, read_body, say, statuses, talk, upstream
from tests.waiting import eventually

GET = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def addresses(*services: Upstream) -> dict[str, str]:
    urls = ",".join(service.url for service in services)
    return {f"GRIDCAST_{name}_URLS": urls for name in ("UPLOAD", "STREAM", "SOCKET")}


@pytest.fixture(scope="module")
def one() -> Iterator[Upstream]:
    with upstream() as service:
        yield service


@pytest.fixture(scope="module")
def hasty(one: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway that waits for nobody longer than a second or so."""
    patience = {f"GRIDCAST_{who}_SECONDS": "1" for who in ("ANSWER", "SENDER", "SERVICE", "READER", "CONNECT")}
    limits = {"GRIDCAST_STORE_SECONDS": "3", "GRIDCAST_MAX_BODY": "1000000"}
    with launched("gateway", tmp_path_factory.mktemp("hasty"), addresses(one) | patience | limits) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture
def gateway(hasty: Service, one: Upstream) -> Service:
    one.reset()
    return hasty


async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request, never answers, notices when it is given up."""
    del writer
    await read_body(seen, reader)
    assert not await reader.read(1)
    raise ConnectionError


# Who is too slow.


def test_a_service_that_does_not_answer_is_504(gateway: Service, one: Upstream) -> None:
    one.answer = silent
    began = time.monotonic()
    answer = ask(gateway.port, "GET", "/file")
    assert answer.status == 504
    assert answer.json["detail"] == "the service did not answer in time"
    assert 1.0 <= time.monotonic() - began < 2.5
    eventually(lambda: one.busy == 0, 2, "its connection is closed")


def test_after_an_upload_the_wait_is_longer(gateway: Service, one: Upstream) -> None:
    async def verify(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(2)
        writer.write(OK)

    one.answer = verify
    assert ask(gateway.port, "PUT", "/file/stream?filename=a", b"x").status == 200


def test_a_body_that_does_not_come_is_408(gateway: Service, one: Upstream) -> None:
    began = time.monotonic()
    received = talk(gateway.port, b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert statuses(received) == [408]
    assert 1.0 <= time.monotonic() - began < 2.5
    assert not one.requests[0].whole


def test_a_body_of_a_few_bytes_now_and_then_is_408_and_a_slow_one_that_moves_is_not(
    gateway: Service, one: Upstream
) -> None:
    for piece, expected in ((b"a" * 10, 408), (b"a" * 1500, 200)):
        with connect(gateway.port) as client:
            client.sendall(
                b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % (12 * len(piece))
            )
            with contextlib.suppress(OSError):
                for _ in range(12):
                    client.sendall(piece)
                    time.sleep(0.25)
            assert statuses(drain(client)) == [expected]
    assert one.requests[1].whole


def test_a_service_that_takes_no_more_is_504(gateway: Service, one: Upstream) -> None:
    async def stuck(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(6)

    one.answer = stuck
    with connect(gateway.port) as client:
        client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.settimeout(5)
        sending = threading.Thread(target=send_chunks, args=(client, 900_000))
        sending.start()
        received = drain(client)
        sending.join()
    # What the kernel's buffers hold counts as taken, so it may as well have been the answer that did not come.
    assert statuses(received) in ([504], [408])


def send_chunks(client: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):
        client.sendall(b"%x\r\n" % size + b"a" * size + b"\r\n")


def test_a_service_that_stops_in_its_answer_resets_the_client(gateway: Service, one: Upstream) -> None:
    async def half(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await silent(seen, reader, writer)

    one.answer = half
    began = time.monotonic()
    with connect(gateway.port) as client:
        client.sendall(GET)
        with pytest.raises(ConnectionResetError):
            read_to_the_end(client)
    assert 1.0 <= time.monotonic() - began < 2.5


def test_a_reader_that_takes_nothing_is_ended(gateway: Service, one: Upstream) -> None:
    async def flood(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    one.answer = flood
    with connect(gateway.port) as client:
        client.sendall(GET)
        eventually(lambda: one.busy == 1, 2)
        eventually(lambda: one.busy == 0, 5, "the service is freed")


def read_to_the_end(client: socket.socket) -> None:
    while client.recv(65536):
        pass


# Limits of bodies.


@pytest.mark.parametrize("chunked", [False, True])
def test_a_media_body_over_the_limit_is_413(gateway: Service, one: Upstream, *, chunked: bool) -> None:
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 1000001\r\n\r\n"
    with connect(gateway.port) as client:
        client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\n" + head)
        if chunked:
            send_chunks(client, 1_000_001)
        assert statuses(drain(client)) == [413]
    assert not any(seen.whole for seen in one.requests)


def test_a_plain_body_has_a_small_limit(gateway: Service, one: Upstream) -> None:
    raw = b"POST /sockets/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n"
    assert statuses(talk(gateway.port, raw)) == [413]
    assert not one.requests


# Slow heads.


def test_many_heads_of_one_byte_a_second_are_ended_and_others_served(gateway: Service) -> None:
    """500 of them; their clock is the server's own ten seconds, so this test takes that long."""
    slow = [connect(gateway.port, 20) for _ in range(500)]
    try:
        began = time.monotonic()
        raw = b"GET /file HTTP/1.1\r\nHost: a\r\nX: "
        for at in range(9):
            for client in slow:
                client.sendall(raw[at : at + 1])
            before = time.monotonic()
            assert ask(gateway.port, "GET", "/file").status == 200
            assert time.monotonic() - before < 0.5
            time.sleep(max(0.0, began + at + 1 - time.monotonic()))
        ends = [drain(client) for client in slow]
        assert 9.5 < time.monotonic() - began < 13
        assert all(statuses(end) == [408] for end in ends)
    finally:
        for client in slow:
            client.close()


# Services that are away.


def test_nobody_there_is_502_within_three_seconds(start_service: Start) -> None:
    (port,) = free_ports(1)
    gateway = start_service("gateway", ready=False, GRIDCAST_STREAM_URLS=f"http://127.0.0.1:{port}")
    eventually(lambda: "running on" in gateway.log, 10)
    began = time.monotonic()
    for method, body in (("GET", None), ("HEAD", None)):
        assert ask(gateway.port, method, "/file/stream", body).status == 502
    assert time.monotonic() - began < 3
    ready = ask(gateway.port, "GET", "/readyz")
    assert ready.status == 503
    assert ready.json["checks"]["stream"] == "none of 1 ready"
    assert ask(gateway.port, "GET", "/livez").status == 200
    assert list(ask(gateway.port, "GET", "/openapi.json").json["paths"]) == ["/livez", "/readyz", "/version"]


def test_a_service_that_accepts_no_connection_is_502_within_three_seconds(start_service: Start) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # fills the backlog: a SYN is now dropped, as in a black hole
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(full.getsockname())
        gateway = start_service(
            "gateway", ready=False, GRIDCAST_STREAM_URLS=f"http://127.0.0.1:{full.getsockname()[1]}"
        )
        eventually(lambda: "running on" in gateway.log, 10)
        began = time.monotonic()
        assert ask(gateway.port, "GET", "/file").status == 502
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("method", "body", "status", "times"), [("GET", None, 200, 2), ("DELETE", None, 502, 1), ("PUT", b"x", 502, 1)]
)
def test_a_connection_that_went_stale(
    gateway: Service, one: Upstream, method: str, body: bytes | None, status: int, times: int
) -> None:
    """A service that closes a kept connection as the next request arrives: asked again where nothing can happen twice."""

    async def once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(one.requests) == 2:
            writer.transport.abort()
            return
        await read_body(seen, reader)
        writer.write(OK)

    assert ask(gateway.port, "GET", "/file").status == 200
    one.reset()
    one.answer = once
    assert ask(gateway.port, "GET", "/file").status == 200
    assert ask(gateway.port, method, "/file/stream?filename=a", body).status == status
    time.sleep(0.2)
    assert len([seen for seen in one.requests if seen.method == method and "filename" in seen.target]) == times


def test_one_of_two_replicas_dies_under_load_and_comes_back(start_service: Start) -> None:
    with upstream() as first, upstream() as second:
        gateway = start_service("gateway", **addresses(first, second))
        stop = threading.Event()
        failed: list[int] = []
        served = [0]

        def load() -> None:
            while not stop.is_set():
                status = ask(gateway.port, "GET", "/file").status
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
        assert gateway.log.count('"ejected"') >= 1


def test_a_replica_that_hangs_gets_no_more_than_its_share(start_service: Start) -> None:
    with upstream() as hanging, upstream() as well:
        gateway = start_service("gateway", **addresses(hanging, well))
        hanging.answer = silent
        held = [connect(gateway.port) for _ in range(4)]
        try:
            for client in held:
                client.sendall(GET)
            eventually(lambda: hanging.requests, 5)
            stuck = len(hanging.requests)
            for _ in range(20):
                assert ask(gateway.port, "GET", "/file").status == 200
            assert len(hanging.requests) == stuck
        finally:
            for client in held:
                client.close()


def test_a_service_given_by_name_is_looked_up(start_service: Start) -> None:
    with upstream() as service:
        urls = {name: url.replace("127.0.0.1", "localhost") for name, url in addresses(service).items()}
        gateway = start_service("gateway", **urls)
        assert ask(gateway.port, "GET", "/file").status == 200
        assert service.requests[0].get("host") == f"127.0.0.1:{gateway.port}"


# Stopping.


def test_at_sigterm_open_requests_are_finished_and_new_connections_refused(start_service: Start) -> None:
    async def slowly(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(1)
        writer.write(OK)

    with upstream() as service:
        service.answer = slowly
        gateway = start_service("gateway", **addresses(service))
        with connect(gateway.port) as client:
            client.sendall(GET)
            eventually(lambda: service.requests, 5)
            stopping = threading.Thread(target=gateway.stop)
            stopping.start()
            assert statuses(drain(client)) == [200]
            stopping.join()
        with pytest.raises(ConnectionRefusedError):
            connect(gateway.port)
        assert "Traceback" not in gateway.log


def test_at_the_end_of_the_drain_what_is_open_is_cut_and_says_so(start_service: Start) -> None:
    with upstream() as service:
        service.answer = silent
        gateway = start_service("gateway", GRIDCAST_DRAIN="1", **addresses(service))
        with connect(gateway.port) as client:
            client.sendall(GET)
            eventually(lambda: service.requests, 5)
            stopping = threading.Thread(target=gateway.stop)
            stopping.start()
            assert statuses(drain(client)) == [503]
            stopping.join()
        assert "Traceback" not in gateway.log


# The door.


def test_origins_cors_and_rates(start_service: Start) -> None:
    with upstream() as service:
        service.answer = say(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: http://theirs\r\n\r\nok"
        )
        door = {
            "GRIDCAST_ALLOWED_ORIGINS": "http://b.example",
            "GRIDCAST_RATE": "5",
            "GRIDCAST_TRUSTED_PROXIES": "127.0.0.0/8",
        }
        gateway = start_service("gateway", **addresses(service), **door)

        def from_(client: str, method: str = "GET", path: str = "/file", **fields: str) -> Callable[[str], str | None]:
            headers = {name.replace("_", "-"): value for name, value in fields.items()} | {"X-Forwarded-For": client}
            answer = ask(gateway.port, method, path, headers=headers)
            return lambda name: str(answer.status) if name == "status" else answer.headers.get(name)

        theirs = from_("1.0.0.1", Origin="http://b.example")
        assert theirs("access-control-allow-origin") == "http://b.example"
        assert theirs("vary") == "Origin"
        assert from_("1.0.0.1", Origin="http://evil")("access-control-allow-origin") is None
        refused = from_("1.0.0.1", path="/nothing", Origin="http://b.example")
        assert (refused("status"), refused("access-control-allow-origin")) == ("404", "http://b.example")
        asked = {"Access_Control_Request_Method": "PATCH", "Access_Control_Request_Headers": "upload-offset"}
        preflight = from_("1.0.0.1", "OPTIONS", "/file/tus/x", Origin="http://b.example", **asked)
        assert preflight("status") == "204"
        assert preflight("access-control-allow-headers") == "upload-offset"
        assert "PATCH" in (preflight("access-control-allow-methods") or "")
        found = [from_("2.0.0.2")("status") for _ in range(15)]
        assert found[:10] == ["200"] * 10
        assert "429" in found
        assert from_("2.0.0.3")("status") == "200"
        assert from_("2.0.0.2", path="/livez")("status") == "200"


def test_too_many_tunnels_and_a_foreign_page_are_refused_at_the_door(start_service: Start) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )

    async def accept(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
        raise ConnectionError

    with upstream() as service:
        service.answer = accept
        gateway = start_service("gateway", GRIDCAST_MAX_TUNNELS="2", **addresses(service))
        for origin in (b"http://evil.example", b"null"):
            assert statuses(talk(gateway.port, handshake + b"Origin: " + origin + b"\r\n\r\n")) == [403]
        assert statuses(talk(gateway.port, handshake + b"Cookie: a=b\r\n\r\n")) == [403]
        assert not service.requests
        with connect(gateway.port) as first, connect(gateway.port) as second:
            for client in (first, second):
                client.sendall(handshake + b"Origin: http://a\r\n\r\nearly")
                received = b""
                while not received.endswith(b"early"):
                    received += client.recv(65536)
                assert received.startswith(b"HTTP/1.1 101 ")
            third = talk(gateway.port, handshake + b"\r\n")
            assert statuses(third) == [503]
            assert b"retry-after" in third
            first.sendall(b"still there")
            assert first.recv(100) == b"still there"
            second.close()
            eventually(lambda: gateway.log.count('"websocket"') >= 5, 5)
            with connect(gateway.port) as fourth:
                fourth.sendall(handshake + b"\r\n")
                assert fourth.recv(100).startswith(b"HTTP/1.1 101 ")


@pytest.mark.long
def test_gigabytes_leave_memory_as_it_was(start_service: Start) -> None:
    """5 GiB up and 5 GiB down: at most 32 MiB more (P16)."""
    size = 5 * 1024**3

    async def count(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(seen.get("content-length") or 0)
        while left:
            left -= len(await reader.read(1 << 20))
        if seen.method == "PUT":
            writer.write(OK)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        data = os.urandom(1 << 20)
        for _ in range(size >> 20):
            writer.write(data)
            await writer.drain()

    with upstream() as service:
        service.answer = count
        gateway = start_service("gateway", **addresses(service))
        ask(gateway.port, "GET", "/openapi.json")
        before = memory(gateway.pid)
        most = before
        with connect(gateway.port, 60) as client:
            client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            data = os.urandom(1 << 20)
            for at in range(size >> 20):
                client.sendall(data)
                if at % 64 == 0:
                    most = max(most, memory(gateway.pid))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            client.sendall(LAST.replace(b"/file ", b"/file/stream "))
            received = at = 0
            while data := client.recv(1 << 20):
                received += len(data)
                at += 1
                if at % 64 == 0:
                    most = max(most, memory(gateway.pid))
        assert received > size
        print(json.dumps({"before": before, "most": most, "grew": most - before}))
        assert most - before < 32 * 1024 * 1024


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - not a file of ours
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
