"""The gateway when somebody is too slow or says too much: clients and services that stall, bodies over the limit."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.processes import Service
from tests.support.scripted_upstream import (
    GET,
    LAST,
    OK,
    Seen,
    Upstream,
    ask,
    connect,
    drain,
    logged,
    memory,
    read_body,
    read_to_the_end,
    silent,
    statuses,
    talk,
)
from tests.support.waiting import eventually


@pytest.fixture
def gateway(hasty: Service, service: Upstream) -> Service:
    service.reset()
    return hasty


def test_a_service_that_does_not_answer_is_504(gateway: Service, service: Upstream) -> None:
    service.answer = silent
    answer = ask(gateway.port, "GET", "/file")
    assert answer.status == 504
    assert answer.json["detail"] == "timeout while waiting for the response of the service"
    assert 1.0 <= logged(gateway, 504)[0]["duration"] < 2.0
    eventually(lambda: service.busy == 0, 2, "its connection is closed")


def test_a_service_that_only_ever_says_wait_is_504(gateway: Service, service: Upstream) -> None:
    async def storm(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        while seen.method == "GET":
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(OK)

    service.answer = storm
    before = memory(gateway.pid)
    with connect(gateway.port) as client:
        client.sendall(GET)
        assert ask(gateway.port, "POST", "/sockets/messages", b"").status == 200
        assert statuses(client.recv(65536)) == [504]
    assert memory(gateway.pid) - before < 8 * 1024 * 1024


def test_after_an_upload_the_wait_is_longer(gateway: Service, service: Upstream) -> None:
    async def verify(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(2)
        writer.write(OK)

    service.answer = verify
    assert ask(gateway.port, "PUT", "/file/stream?filename=a", b"x").status == 200


def test_a_body_that_does_not_come_is_408(gateway: Service, service: Upstream) -> None:
    received = talk(gateway.port, b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert statuses(received) == [408]
    assert 1.0 <= logged(gateway, 408)[0]["duration"] < 2.0
    assert not service.requests[0].whole


def test_a_body_of_a_few_bytes_now_and_then_is_408_and_a_slow_one_that_moves_is_not(
    gateway: Service, service: Upstream
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
    assert service.requests[1].whole


def test_a_service_that_takes_no_more_is_504(gateway: Service, service: Upstream) -> None:
    async def stuck(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(6)

    service.answer = stuck
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


def test_a_service_that_stops_in_its_answer_resets_the_client(gateway: Service, service: Upstream) -> None:
    async def half(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await silent(seen, reader, writer)

    service.answer = half
    with connect(gateway.port) as client:
        client.sendall(GET)
        with pytest.raises(ConnectionResetError):
            read_to_the_end(client)
    line = logged(gateway, 200)[0]
    assert line["bytes_sent"] == 3
    assert 1.0 <= line["duration"] < 2.0


def test_a_reader_that_takes_nothing_is_ended(gateway: Service, service: Upstream) -> None:
    async def flood(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del seen, reader
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    service.answer = flood
    with connect(gateway.port) as client:
        client.sendall(GET)
        eventually(lambda: service.busy == 1, 2)
        eventually(lambda: service.busy == 0, 5, "the service is freed")


def test_nothing_is_left_of_readers_that_take_nothing(gateway: Service, service: Upstream) -> None:
    """Of many sizes: some end in the system's buffers, some in the gateway's own, and there the next request waits behind them."""

    async def much(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        size = int(seen.target.partition("?")[2])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await writer.drain()

    def held() -> int:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
        return sum(fields[1].endswith(f":{gateway.port:04X}") and fields[3] == "01" for fields in lines)

    service.answer = much
    with contextlib.ExitStack() as clients:
        for size in range(100_000, 5_000_000, 100_000):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            asked = b"/file?%d " % size
            client.sendall(GET.replace(b"/file ", asked) + LAST.replace(b"/file ", asked))
        assert held() > 10
        eventually(lambda: service.busy == held() == 0, 10, "none is held")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_media_body_over_the_limit_is_413(gateway: Service, service: Upstream, *, chunked: bool) -> None:
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 1000001\r\n\r\n"
    with connect(gateway.port) as client:
        client.sendall(b"PUT /file/stream HTTP/1.1\r\nHost: a\r\n" + head)
        if chunked:
            send_chunks(client, 1_000_001)
        assert statuses(drain(client)) == [413]
    assert not any(seen.whole for seen in service.requests)


def test_a_plain_body_has_a_small_limit(gateway: Service, service: Upstream) -> None:
    raw = b"POST /sockets/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n"
    assert statuses(talk(gateway.port, raw)) == [413]
    assert [seen for seen in service.requests if seen.target == "/sockets/messages"] == []


def test_many_heads_of_one_byte_a_second_are_ended_and_others_served(gateway: Service) -> None:
    """500 of them; their clock is the server's own ten seconds, so this test takes that long."""
    opened = time.time()
    slow = [connect(gateway.port, 20) for _ in range(500)]
    took: list[float] = []
    try:
        began = time.monotonic()
        raw = b"GET /file HTTP/1.1\r\nHost: a\r\nX: "
        for at in range(9):
            for client in slow:
                client.sendall(raw[at : at + 1])
            before = time.monotonic()
            assert ask(gateway.port, "GET", "/file").status == 200
            took.append(time.monotonic() - before)
            time.sleep(max(0.0, began + at + 1 - time.monotonic()))
        ends = [drain(client) for client in slow]
        assert all(statuses(end) == [408] for end in ends)
        assert sorted(took)[len(took) // 2] < 0.25, "others do not notice"
        ended = [line["time"] - opened for line in logged(gateway, 408, 500) if line["message"] == "request rejected"]
        assert len(ended) == 500
        assert min(ended) > 9.5
        assert max(ended) < 13.0
    finally:
        for client in slow:
            client.close()
