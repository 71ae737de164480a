"""Mutated requests to the gateway: for every one, no 5xx, no traceback, and the upstream receives nothing that was not sent.

One seed for a run, printed; the long form sends ten thousand.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.processes import ServiceProcess
from tests.support.scripted_upstream import ScriptedUpstream, parse_statuses

pytestmark = pytest.mark.anyio

CONTINUE_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"

SEED_REQUESTS = [
    b'GET /file?folder=a&q=%C3%A9 HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\nRange: bytes=0-5\r\nIf-None-Match: "x"\r\n\r\n',
    b"HEAD /file/stream?filename=a.webm HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-own\r\nX-Own: 1\r\n\r\n",
    b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: a\r\nContent-Type: video/webm\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /file/upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX: 1\r\n\r\n",
    b"PATCH /file/tus/6740f3c2 HTTP/1.1\r\nHost: a\r\nUpload-Offset: 0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"OPTIONS /file/tus HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    b"GET /ws?topics=a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: a=b\r\n\r\n",
]
MUTATION_BYTES = [
    *(bytes([byte]) for byte in b"\x00\r\n\t :;,=%?#/\\@.-+0f\x7f\x80\xff"),
    *(
        b"\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"HTTP/1.0",
        b"0\r\n\r\n",
    ),
    *(
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"GET /sockets HTTP/1.1\r\n",
        b"X_Forwarded_For: 6\r\n",
        b"chunked",
        b"%2e%2e/",
    ),
]


def mutate_request(rng: random.Random) -> bytes:
    """One or two requests with a few bytes changed, removed, doubled or inserted."""
    raw = bytearray(b"".join(rng.choices(SEED_REQUESTS, k=rng.choice((1, 1, 2)))))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw))
        match rng.randrange(5):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 8)]
            case 2:
                raw[at:at] = raw[at : at + rng.randint(1, 40)]
            case _:
                raw[at:at] = rng.choice(MUTATION_BYTES)
        if not raw:
            raw += b"\r\n"
    return bytes(raw)


async def send_and_receive(port: int, raw: bytes) -> bytes:
    """What is received after sending `raw`, until nothing more arrives for a moment."""
    received = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(raw)
        while data := await asyncio.wait_for(reader.read(65536), 0.3):
            received += data
    writer.transport.abort()
    return received


async def _fuzz(gateway: ServiceProcess, service: ScriptedUpstream, count: int) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"SEED={seed}")
    chance = random.Random(seed)
    raws = [mutate_request(chance) for _ in range(count)]
    service.reset()
    counts: Counter[int] = Counter()

    async def send(some: Iterator[bytes]) -> None:
        for raw in some:
            received = await send_and_receive(gateway.port, raw)
            statuses_ = parse_statuses(received.replace(CONTINUE_RESPONSE, b"")) if received else []
            assert all(status < 500 for status in statuses_), (seed, raw, received)
            counts.update(statuses_)

    each = iter(raws)
    async with asyncio.TaskGroup() as users:
        for _ in range(32):
            users.create_task(send(each))
    print(dict(counts), len(service.requests), "seen by the service")
    everything = b"\n\n".join(raws)
    for request in service.requests:
        assert request.target.encode() in everything, (seed, request)
        assert len(request.get_all("host")) <= 1
        assert len(request.get_all("content-length")) + len(request.get_all("transfer-encoding")) <= 1
        assert request.get_all("x-forwarded-for") == ["127.0.0.1"], (seed, request)
        assert not any("_" in name for name, _ in request.headers)
    assert not service.parse_errors, (seed, service.parse_errors)
    # Most of them must reach the service, or they show nothing; many must be rejected, too.
    assert counts[200] > count // 10
    assert counts[400] > count // 10
    assert "Traceback" not in gateway.log


async def test_mutants(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    await _fuzz(gateway, upstream, 1000)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_thousand_mutants(gateway: ServiceProcess, upstream: ScriptedUpstream) -> None:
    """P7."""
    await _fuzz(gateway, upstream, 10_000)
