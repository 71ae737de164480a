"""With tokens on: the address comes to the uploader's socket, works for players without header fields, and ends with the upload."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.waiting import eventually, eventually_async
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
ALICE, BOB = authorized("write:a read:a delete:a listen", "alice"), authorized("write:b read:b listen", "bob")
DATA = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41" + b"\x00\x00\x04\x00moov" + bytes(1016)
DATA += (3 * CHUNK_SIZE).to_bytes(4, "big") + b"mdat" + bytes(3 * CHUNK_SIZE - 8)
HALF = 2 * CHUNK_SIZE + 5


@dataclass
class Services:
    """The services behind a gateway."""

    url: str
    socket: ServiceProcess


@pytest.fixture(scope="module", params=["gridfs", "files"])
def services(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    mongod: ServerProcess,
    redis_server: ServerProcess,
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("playing")
    env = storage_env(mongod, redis_server.url, "auth_playing", **AUTH_ENV)
    if request.param == "files":
        env |= {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(logs / "store")}
    with (
        run_service("services.upload", logs, env) as upload,
        run_service("services.stream", logs, env) as stream,
        run_service("services.socket", logs, {**AUTH_ENV, "GRIDCAST_REDIS_URL": redis_server.url}) as socket,
    ):
        urls = {"UPLOAD": upload.url, "STREAM": stream.url, "SOCKET": socket.url}
        addresses = {f"GRIDCAST_{name}_URLS": url for name, url in urls.items()}
        with run_service("gateway", logs, {**addresses, "GRIDCAST_AUTH": "hs256"}, ready=False) as gateway:
            eventually(lambda: httpx.get(f"{gateway.url}/livez").status_code == 200)
            yield Services(gateway.url, socket)


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


async def test_an_address_is_the_right_and_ends_with_the_file(services: Services) -> None:
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(httpx.AsyncClient(base_url=services.url, timeout=30))
        alice = await WebSocketClient.connect(services.socket, headers=ALICE)
        opened.push_async_callback(alice.close)
        bob = await WebSocketClient.connect(services.socket, headers=BOB)
        opened.push_async_callback(bob.close)
        fields = {"upload-length": str(len(DATA)), "upload-metadata": metadata(filename="p", folder="a", sid=alice.sid)}
        created = await http.post("/file/tus", headers={**TUS, **ALICE, **fields})
        assert created.status_code == 201, created.text
        upload = created.headers["location"]
        half = {**TUS, **ALICE, "upload-offset": "0"}
        assert (await http.patch(upload, headers=half, content=DATA[:HALF])).status_code == 204
        event = await alice.receive_event("file.playable")
        address = event["data"]["address"]
        part = await http.get(address, headers={"range": "bytes=0-999"})
        assert (part.status_code, part.content) == (206, DATA[:1000])
        assert part.headers["content-range"] == f"bytes 0-999/{len(DATA)}"
        assert (await http.head(address)).headers["content-length"] == str(len(DATA))
        assert (await http.get("/file/stream?folder=a&filename=p")).status_code == 401
        assert (await http.head(upload, headers=TUS)).status_code == 401
        rest = {**TUS, **ALICE, "upload-offset": str(HALF)}
        assert (await http.patch(upload, headers=rest, content=DATA[HALF:])).status_code == 204
        whole = await http.get(address)
        assert (whole.status_code, whole.content) == (200, DATA)
        assert whole.headers["etag"] == part.headers["etag"]
        assert (await http.get("/file/stream?folder=a&filename=p")).status_code == 401
        deleted = await http.delete("/file/stream?folder=a&filename=p", headers=ALICE)
        assert deleted.status_code == 204
        assert (await http.get(address)).status_code == 410
        await bob.assert_nothing_pending()


@pytest.mark.parametrize("revoked", ["token", "subject"])
@pytest.mark.parametrize("way", ["tus", "put"])
async def test_an_address_ends_with_the_token_that_began_the_upload(services: Services, revoked: str, way: str) -> None:
    """Within two seconds what is played is cut and the address is 410, and it stays so; the addresses of others go on."""
    name = f"{way}-{revoked}-{time.time_ns()}"
    headers = authorized("write:a listen", name, jti=name)
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(httpx.AsyncClient(base_url=services.url, timeout=30))
        uploader = await WebSocketClient.connect(services.socket, headers=headers)
        opened.push_async_callback(uploader.close)
        hold = asyncio.Event()
        sending = asyncio.create_task(send_half(http, way, name, uploader.sid, headers, hold))
        address = (await uploader.receive_event("file.playable"))["data"]["address"]
        playlist = address.replace("/stream", "/media.m3u8")
        for unsealed in (address.partition(".")[0] + "/stream", address.partition(".")[0] + "/media.m3u8"):
            assert (await http.get(unsealed)).status_code == 410, "without its seal it is none"
        assert (await http.get(playlist)).status_code == 404, "these bytes have no list"
        ended = asyncio.create_task(play(http, address))
        await eventually_async(lambda: is_playable(http, address))
        assert not ended.done()
        what = {"token_id": name} if revoked == "token" else {"subject": name}
        began = time.monotonic()
        made = await http.post("/auth/revocations", json=what, headers=authorized("admin", "root"))
        assert made.status_code == 201
        assert await asyncio.wait_for(ended, 10), "it is cut"
        assert time.monotonic() - began < 2.5
        assert [(await http.get(one)).status_code for one in (address, playlist)] == [410, 410]
        hold.set()
        await sending
        assert (await http.get(address)).status_code == 410


async def send_half(
    http: httpx.AsyncClient, way: str, name: str, sid: str, headers: dict[str, str], hold: asyncio.Event
) -> None:
    """Send half of a file; by PUT the request stays open."""
    if way == "tus":
        fields = {"upload-length": str(len(DATA)), "upload-metadata": metadata(filename=name, folder="a", sid=sid)}
        made = await http.post("/file/tus", headers={**TUS, **headers, **fields}, content=DATA[:HALF])
        assert made.status_code == 201, made.text
        return

    async def body() -> AsyncIterator[bytes]:
        yield DATA[:HALF]
        await hold.wait()
        yield DATA[HALF:]

    with suppress(httpx.HTTPError):
        await http.put(
            f"/file/stream?folder=a&filename={name}&sid={sid}",
            content=body(),
            headers={**headers, "content-length": str(len(DATA)), "content-type": "video/mp4"},
        )


async def is_playable(http: httpx.AsyncClient, address: str) -> bool:
    return (await http.get(address, headers={"range": "bytes=0-999"})).status_code == 206


async def play(http: httpx.AsyncClient, address: str) -> bool:
    """Play from the start; whether the response was cut before its end."""
    try:
        async with http.stream("GET", address) as response:
            assert response.status_code == 200
            async for _ in response.aiter_raw():
                pass
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return True
    return False
