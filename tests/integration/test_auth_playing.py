"""With tokens on: the address comes to the uploader's socket, works for players without header fields, and ends with the upload."""

import base64
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.waiting import eventually
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
