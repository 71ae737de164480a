"""Timeouts and size limits of the gateway: clients and services that stall, bodies over the limit."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess
from tests.support.raw_sockets import receive_until_closed, receive_until_eof
from tests.support.scripted_upstream import (
    GET_AND_CLOSE,
    GET_REQUEST,
    OK_RESPONSE,
    ReceivedRequest,
    ScriptedUpstream,
    never_respond,
    open_connection,
    parse_statuses,
    read_body,
    send_raw,
    send_request,
    wait_for_access_log,
)
from tests.support.waiting import eventually


@pytest.fixture
def gateway(short_timeout_gateway: ServiceProcess, upstream: ScriptedUpstream) -> ServiceProcess:
    upstream.reset()
    return short_timeout_gateway


def test_upstream_that_sends_no_response_is_504(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    upstream.responder = never_respond
    response = send_request(gateway.port, "GET", "/file")
    assert response.status == 504
    assert response.json["detail"] == "timeout while waiting for the response of the service"
    assert 1.0 <= wait_for_access_log(gateway, 504)[0]["duration"] < 2.0
    eventually(lambda: upstream.active_requests == 0, 2, "its connection is closed")


def test_upstream_that_sends_only_interim_responses_is_504(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    async def storm(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        while seen.method == "GET":
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(OK_RESPONSE)

    upstream.responder = storm
    before = resident_memory(gateway.pid)
    with open_connection(gateway.port) as client:
        client.sendall(GET_REQUEST)
        assert send_request(gateway.port, "POST", "/sockets/messages", b"").status == 200
        assert parse_statuses(client.recv(65536)) == [504]
    assert resident_memory(gateway.pid) - before < 8 * 1024 * 1024


def test_response_header_timeout_is_longer_after_an_upload(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    async def verify(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(2)
        writer.write(OK_RESPONSE)

    upstream.responder = verify
    assert send_request(gateway.port, "PUT", "/file/stream?filename=a", b"x").status == 200


def test_missing_body_is_408(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    received = send_raw(gateway.port, b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert parse_statuses(received) == [408]
    assert 1.0 <= wait_for_access_log(gateway, 408)[0]["duration"] < 2.0
    assert not upstream.requests[0].complete


def test_stalling_body_is_408_and_a_slow_steady_body_is_not(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    for piece, expected in ((b"a" * 10, 408), (b"a" * 1500, 200)):
        with open_connection(gateway.port) as client:
            client.sendall(
                b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % (12 * len(piece))
            )
            with contextlib.suppress(OSError):
                for _ in range(12):
                    client.sendall(piece)
                    time.sleep(0.25)
            assert parse_statuses(receive_until_closed(client)) == [expected]
    assert upstream.requests[1].complete


def test_upstream_that_stops_reading_is_504(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    async def stuck(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(6)

    upstream.responder = stuck
    with open_connection(gateway.port) as client:
        client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.settimeout(5)
        sending = threading.Thread(target=send_chunk, args=(client, 900_000))
        sending.start()
        received = receive_until_closed(client)
        sending.join()
    # Bytes in the kernel's buffers count as received, so either timeout may have expired.
    assert parse_statuses(received) in ([504], [408])


def send_chunk(client: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):
        client.sendall(b"%x\r\n" % size + b"a" * size + b"\r\n")


def test_upstream_that_stalls_in_its_response_resets_the_client(
    gateway: ServiceProcess, upstream: ScriptedUpstream
) -> None:
    async def half(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await never_respond(seen, reader, writer)

    upstream.responder = half
    with open_connection(gateway.port) as client:
        client.sendall(GET_REQUEST)
        with pytest.raises(ConnectionResetError):
            receive_until_eof(client)
    line = wait_for_access_log(gateway, 200)[0]
    assert line["bytes_sent"] == 3
    assert 1.0 <= line["duration"] < 2.0


def test_client_that_reads_nothing_is_disconnected(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    async def flood(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    upstream.responder = flood
    with open_connection(gateway.port) as client:
        client.sendall(GET_REQUEST)
        eventually(lambda: upstream.active_requests == 1, 2)
        eventually(lambda: upstream.active_requests == 0, 5, "the service is freed")


def test_stalled_readers_leave_no_resources(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """Of many sizes: some end in the kernel's buffers, some in the gateway's, where the next request waits behind them."""

    async def much(seen: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        size = int(seen.target.partition("?")[2])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await writer.drain()

    def held() -> int:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
        return sum(fields[1].endswith(f":{gateway.port:04X}") and fields[3] == "01" for fields in lines)

    upstream.responder = much
    with contextlib.ExitStack() as clients:
        for size in range(100_000, 5_000_000, 100_000):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            asked = b"/file?%d " % size
            client.sendall(GET_REQUEST.replace(b"/file ", asked) + GET_AND_CLOSE.replace(b"/file ", asked))
        assert held() > 10
        eventually(lambda: upstream.active_requests == held() == 0, 10, "none is held")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_media_body_over_the_limit_is_413(
    gateway: ServiceProcess, upstream: ScriptedUpstream, *, chunked: bool
) -> None:
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 1000001\r\n\r\n"
    with open_connection(gateway.port) as client:
        client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\n" + head)
        if chunked:
            send_chunk(client, 1_000_001)
        assert parse_statuses(receive_until_closed(client)) == [413]
    assert not any(seen.complete for seen in upstream.requests)


def test_a_plain_body_has_a_small_limit(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    raw = b"POST /sockets/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n"
    assert parse_statuses(send_raw(gateway.port, raw)) == [413]
    assert [seen for seen in upstream.requests if seen.target == "/sockets/messages"] == []


def test_slow_headers_are_timed_out_while_others_are_served(gateway: ServiceProcess) -> None:
    """500 of them; their timeout is the server's ten seconds, so this test takes that long."""
    opened = time.time()
    slow = [open_connection(gateway.port, 20) for _ in range(500)]
    took: list[float] = []
    try:
        began = time.monotonic()
        raw = b"GET /file HTTP/1.1\r\nHost: a\r\nX: "
        for at in range(9):
            for client in slow:
                client.sendall(raw[at : at + 1])
            before = time.monotonic()
            assert send_request(gateway.port, "GET", "/file").status == 200
            took.append(time.monotonic() - before)
            time.sleep(max(0.0, began + at + 1 - time.monotonic()))
        ends = [receive_until_closed(client) for client in slow]
        assert all(parse_statuses(end) == [408] for end in ends)
        assert sorted(took)[len(took) // 2] < 0.25, "others do not notice"
        ended = [
            line["time"] - opened
            for line in wait_for_access_log(gateway, 408, 500)
            if line["message"] == "request rejected"
        ]
        assert len(ended) == 500
        assert min(ended) > 9.5
        assert max(ended) < 13.0
    finally:
        for client in slow:
            client.close()
