"""All services under stock uvicorn: without our server everything works, only slower."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio

DATA = os.urandom(700_000)
NAME = {"filename": "stock.webm", "folder": "stock"}


class Stock:
    """The five processes."""

    def __init__(self, start: Callable[..., ServiceProcess], websocket: str) -> None:
        self.upload = start("services.upload.app:create_app", "none")
        self.stream = start("services.stream.app:create_app", "none")
        self.socket = start("services.socket.app:create_app", websocket)
        self.live = start("services.live.app:create_app", "none")
        self.gateway = start(
            "gateway.app:create_app",
            "gateway.websocket.handshake:ClientHandshake",
            GRIDCAST_UPLOAD_URLS=self.upload.url,
            GRIDCAST_STREAM_URLS=self.stream.url,
            GRIDCAST_SOCKET_URLS=self.socket.url,
            GRIDCAST_LIVE_URLS=self.live.url,
        )


@pytest.fixture(
    scope="module", params=[("httptools", "websockets-sansio"), ("h11", "websockets")], ids=lambda two: two[0]
)
def stock(
    request: pytest.FixtureRequest,
    mongod: ServerProcess,
    redis_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stock]:
    http, websocket = request.param
    folder: Path = tmp_path_factory.mktemp("stock")
    env = {
        **storage_env(mongod, redis_server.url, f"test_stock_{http}"),
        "STOCK_HTTP": http,
    }
    with ExitStack() as running:

        def start(app: str, ws: str, **more: str) -> ServiceProcess:
            settings = {**env, "STOCK_APP": app, "STOCK_WS": ws, **more}
            return running.enter_context(run_service("tests.support.stock_server", folder, settings))

        yield Stock(start, websocket)


def put(base: str, data: bytes = DATA, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return httpx.put(f"{base}/file/stream", params=NAME, content=data, headers=headers)


@pytest.mark.parametrize("behind", [True, False], ids=["through the gateway", "straight"])
def test_what_is_uploaded_comes_out_in_ranges(stock: Stock, *, behind: bool) -> None:
    write = stock.gateway.url if behind else stock.upload.url
    read = stock.gateway.url if behind else stock.stream.url
    assert put(write).status_code in {200, 201}
    whole = httpx.get(f"{read}/file/stream", params=NAME)
    assert (whole.status_code, whole.content) == (200, DATA)
    assert whole.headers["etag"]
    assert whole.headers["x-content-type-options"] == "nosniff"
    for first, last in [(0, 99), (1000, 70_000), (len(DATA) - 5, len(DATA) - 1), (0, len(DATA) - 1)]:
        for _ in range(2):  # out of the store, then out of memory
            answer = httpx.get(f"{read}/file/stream", params=NAME, headers={"range": f"bytes={first}-{last}"})
            assert (answer.status_code, answer.content) == (206, DATA[first : last + 1])
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(DATA)}"
            assert answer.headers["content-type"] == "video/webm"
    several = httpx.get(f"{read}/file/stream", params=NAME, headers={"range": "bytes=0-9,100-109"})
    assert several.status_code == 206
    assert DATA[:10] in several.content
    assert DATA[100:110] in several.content
    head = httpx.head(f"{read}/file/stream", params=NAME)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(DATA)), b"")
    fresh = httpx.get(f"{read}/file/stream", params=NAME, headers={"if-none-match": whole.headers["etag"]})
    assert fresh.status_code == 304


def test_a_chunked_body_and_a_form(stock: Stock) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA[:100]
        yield DATA[100:]

    answer = httpx.put(f"{stock.gateway.url}/file/stream", params=NAME, content=pieces())
    assert answer.status_code in {200, 201}
    form = httpx.post(
        f"{stock.gateway.url}/file/upload",
        files={"file": (f"{os.urandom(4).hex()}.webm", DATA, "video/webm")},
        data={"folder": "stock"},
    )
    assert form.status_code == 201, form.text
    listed = httpx.get(f"{stock.gateway.url}/file", params={"folder": "stock"})
    assert listed.json()["files"][0]["length"] == len(DATA)


def test_faults_are_problems(stock: Stock) -> None:
    assert put(stock.upload.url).status_code in {200, 201}
    # A small body: stock uvicorn closes a connection whose request was refused unread, and what it had sent may be lost with it.
    assert put(stock.gateway.url, b"x", {"if-none-match": "*"}).status_code == 412
    for base in (stock.gateway.url, stock.stream.url):
        missing = httpx.get(f"{base}/file/stream", params={"filename": "nothing"})
        assert (missing.status_code, missing.json()["status"]) == (404, 404)
        bad = httpx.get(f"{base}/file/stream", params=NAME, headers={"range": f"bytes={len(DATA)}-"})
        assert (bad.status_code, bad.headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    page = httpx.get(stock.gateway.url)
    assert page.status_code == 200
    assert re.search("<html", page.text)


@pytest.mark.parametrize("behind", [True, False], ids=["through the gateway", "straight"])
async def test_sockets_answer_hear_and_resume(stock: Stock, *, behind: bool) -> None:
    service = stock.gateway if behind else stock.socket
    client = await WebSocketClient.connect(service, topics="news")
    await client.connection.send('"ping"')
    assert await client.receive_frame() == {"pong": True}
    await push(stock, f"/sockets/{client.sid}/messages", 1)
    await push(stock, "/sockets/messages?topic=news", 2)
    seen = [(await client.receive_frame())["data"] for _ in range(2)]
    assert sorted(seen) == [1, 2]
    await client.connection.close()
    again = await client.reconnect(service)
    assert again.first_frame["recovered"] is True
    assert again.sid == client.sid
    await push(stock, f"/sockets/{client.sid}/messages", "x" * 60_000)
    assert (await again.receive_frame())["data"] == "x" * 60_000
    async with httpx.AsyncClient() as http:
        assert (await http.delete(f"{stock.socket.url}/sockets/{client.sid}")).status_code == 204
    with pytest.raises(ConnectionClosed):
        await again.receive_frame()
    assert again.connection.close_code == 1008


async def push(stock: Stock, path: str, data: Any) -> None:
    body = json.dumps({"type": "test.said", "data": data})
    async with httpx.AsyncClient(headers={"content-type": "application/json"}) as http:
        answer = await http.post(f"{stock.socket.url}{path}", content=body)
    assert answer.status_code == 200, answer.text


async def test_a_handshake_is_refused_with_a_reason(stock: Stock) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await WebSocketClient.connect(stock.socket, topics="*")
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body or b"")["status"] == 400
