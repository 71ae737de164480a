"""The gateway's own HTTP client before a service that says what a test wants: which connections are kept, whose answer is whose."""

import asyncio

import pytest

from tests.support.processes import Service
from tests.support.scripted_upstream import (
    OK,
    Seen,
    Upstream,
    ask,
    connect,
    drain,
    read_body,
    say,
    statuses,
    talk,
)
from tests.support.waiting import eventually

LAST = b"Connection: close\r\n\r\n"
ONE_MORE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
STRANGER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger"


@pytest.fixture
def gateway(gateway: Service, service: Upstream) -> Service:
    """With one kept connection to the service, and no other."""
    service.answer = say(ONE_MORE)
    for _ in range(5):
        assert ask(gateway.port, "GET", "/file").status == 200
    service.reset()
    assert ask(gateway.port, "GET", "/file").status == 200
    service.requests.clear()
    return gateway


def connections(gateway: Service, service: Upstream, times: int = 5) -> int:
    """How many more of them the service sees after some requests."""
    before = service.connections
    for _ in range(times):
        assert ask(gateway.port, "GET", "/file").body == b"ok"
    return service.connections - before


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("GET", OK),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 3 + OK),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        ("PUT", OK),
    ],
    ids=["length", "chunks and a trailer", "after interim ones", "to HEAD", "204", "304", "to an upload"],
)
def test_the_connection_is_kept_behind_an_answer(gateway: Service, service: Upstream, method: str, raw: bytes) -> None:
    service.answer = say(raw)
    before = service.connections
    for _ in range(5):
        answer = ask(gateway.port, method, "/file/stream", b"a" * 100_000 if method == "PUT" else None)
        assert answer.status == int(raw.rsplit(b"HTTP/1.1 ", 1)[1][:3])
        assert not {"x", "link"} & {name.lower() for name in answer.headers}
    assert service.connections == before
    service.answer = say(OK)
    assert connections(gateway, service) == 0


@pytest.mark.parametrize(
    "raw",
    [
        ONE_MORE,
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + STRANGER,
        OK + b"noise",
    ],
    ids=["it says so", "HTTP/1.0", "another answer behind it", "noise behind it"],
)
def test_it_is_not_where_the_next_answer_might_not_be_the_next_requests(
    gateway: Service, service: Upstream, raw: bytes
) -> None:
    service.answer = say(raw)
    assert connections(gateway, service) == 4


def test_an_answer_to_nothing_on_an_idle_connection_is_nobodys(gateway: Service, service: Upstream) -> None:
    async def more_later(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.3)
        writer.write(STRANGER)
        await writer.drain()
        assert not await reader.read(1)

    service.answer = more_later
    assert ask(gateway.port, "GET", "/file").body == b"ok"
    eventually(lambda: service.busy == 0, 5, "the gateway has closed that connection")
    service.answer = say(OK)
    assert connections(gateway, service) == 1


def test_an_answer_without_a_length_ends_with_its_connection(gateway: Service, service: Upstream) -> None:
    async def until_close(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 300_000)
        await writer.drain()
        writer.close()

    service.answer = until_close
    answer = ask(gateway.port, "GET", "/file/stream")
    assert (answer.headers["transfer-encoding"], len(answer.body)) == ("chunked", 300_000)


@pytest.mark.parametrize("early", [True, False])
def test_a_body_that_was_not_sent_whole_costs_the_connection(
    gateway: Service, service: Upstream, *, early: bool
) -> None:
    async def refuse(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not early:
            await read_body(seen, reader)
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        if early:
            await reader.read()
            raise ConnectionError

    service.answer = refuse
    with connect(gateway.port) as client:
        head = b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        client.sendall(head + b"a" * (5 if early else 100_000))
        received = b""
        while not received.endswith(b"no"):
            received += client.recv(65536)
        assert statuses(received) == [409]
        assert (b"connection: close" in received) is early
    service.answer = say(OK)
    assert connections(gateway, service) == (1 if early else 0)


def test_two_users_at_once_have_two_connections_and_each_its_own_answer(gateway: Service, service: Upstream) -> None:
    async def echo(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05 if "slow" in seen.target else 0.0)
        said = seen.target.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    service.answer = echo
    targets = [b"/file?%s%d" % (b"slow" if number % 3 else b"", number) for number in range(30)]
    clients = [connect(gateway.port) for _ in targets]
    for client, target in zip(clients, targets, strict=True):
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + LAST)
    for client, target in zip(clients, targets, strict=True):
        assert drain(client).endswith(b"\r\n\r\n" + target)
        client.close()


def test_a_service_that_came_back_is_asked_without_a_failure(gateway: Service, service: Upstream) -> None:
    """All kept connections have ended meanwhile."""
    assert connections(gateway, service) == 0
    service.stop()
    service.start()
    eventually(lambda: ask(gateway.port, "GET", "/file").status == 200, 5, "it is asked again")
    assert ask(gateway.port, "PUT", "/file/stream", b"a").status == 200


@pytest.mark.parametrize("size", [1, 65_536, 3_000_001])
@pytest.mark.parametrize("chunked", [True, False])
def test_bodies_of_any_size_both_ways(gateway: Service, service: Upstream, size: int, *, chunked: bool) -> None:
    sent = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def give_back(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        if not chunked:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(seen.body) + seen.body)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(seen.body), 7777):
            piece = seen.body[at : at + 7777]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    service.answer = give_back
    pieces = (sent[at : at + 100_000] for at in range(0, size, 100_000))
    answer = ask(gateway.port, "PUT", "/file/stream", pieces if chunked else sent)
    assert answer.body == sent
    service.answer = say(OK)
    assert connections(gateway, service) == 0


def test_a_request_behind_an_upload_on_the_same_connection(gateway: Service, service: Upstream) -> None:
    """The parser is passed by for the upload's body: what stands behind it must be seen for what it is."""
    put = (
        b"PUT /file/stream HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
        + b"GET / HTTP/1.1\r\n\r\n" * 16_666
        + b"a" * 12
    )
    assert put.endswith(b"a" * 12)
    assert len(put.partition(b"\r\n\r\n")[2]) == 300_000
    received = talk(gateway.port, put * 3 + b"GET /file?last HTTP/1.1\r\nHost: a\r\n" + LAST)
    assert statuses(received) == [200] * 4
    assert [seen.method for seen in service.requests] == ["PUT"] * 3 + ["GET"]
    assert [len(seen.body) for seen in service.requests] == [300_000] * 3 + [0]
