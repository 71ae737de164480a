"""Who may watch a live stream: tokens by folder, links of the kind `live` that the list writes into its addresses."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import httpx
import m3u8
import pytest

from services.common.auth.key_ring import parse_key_ring
from services.common.auth.signed_links import Link, LinkSigner
from services.common.media import MediaName
from tests.support.databases import ServerProcess, storage_env
from tests.support.hls_rules import apply_delta, check_playlist
from tests.support.live_replicas import live_writer, prepare_store
from tests.support.live_writer import LiveWriter
from tests.support.processes import ServiceProcess, StartService, run_service
from tests.support.tokens import AUTH_ENV, SECRET, authorized
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio

DATABASE = "test_stream_live_auth"
SIGNER = LinkSigner(parse_key_ring(f"k1 {SECRET}"))


@dataclass(frozen=True)
class Services:
    """An upload service, which makes links, and a stream service."""

    upload: ServiceProcess
    stream: ServiceProcess


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("live_auth")
    prepare_store(mongod, DATABASE)
    env = storage_env(mongod, redis_server.url, DATABASE, **AUTH_ENV)
    with run_service("services.upload", logs, env) as upload, run_service("services.stream", logs, env) as stream:
        yield Services(upload, stream)


@pytest.fixture
async def http(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=services.stream.url, timeout=20) as client:
        yield client


@pytest.fixture
async def writer(mongod: ServerProcess, redis_server: ServerProcess) -> AsyncIterator[LiveWriter]:
    """A stream of eight segments in the folder `team/a`."""
    async with live_writer(mongod, redis_server.url, DATABASE, folder="team/a") as writer:
        await writer.add_segments(8)
        yield writer


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a service that may not listen yet."""

    async def succeeds() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return await check()
        return False

    await eventually_async(succeeds)


async def make_link(services: Services, scope: str, **options: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=services.upload.url, timeout=20) as client:
        body = {"links": [{"kind": "live", **options}]}
        return await client.post("/file/link", json=body, headers=authorized(scope, "alice"))


async def link_of(services: Services, writer: LiveWriter) -> str:
    made = await make_link(services, "link read:team/*", stream=writer.id)
    assert made.status_code == 201, made.text
    (link,) = made.json()["links"]
    assert link["url"] == f"{writer.path}/index.m3u8?link={link['link']}"
    return str(link["link"])


async def test_watching_needs_the_right_to_read_the_folder(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    paths = [f"{writer.path}/{path}" for path in ("index.m3u8", "media.m3u8", "0/init.mp4", "0/1.m4s")]
    for path in paths:
        for scope in ("read", "read:team/a", "read:team/*"):
            answer = await http.get(path, headers=authorized(scope))
            assert answer.status_code == 200
            assert answer.headers["cache-control"].startswith("private, ")
        for scope in ("read:team/b", "read:team", "write", "publish"):
            assert (await http.get(path, headers=authorized(scope))).status_code == 403
        refused = await http.get(path)
        assert refused.status_code == 401
        assert "team" not in (await http.get(path, headers=authorized("read:x"))).text, "the folder is not told"


async def test_a_link_is_in_every_address_of_the_list(
    services: Services, http: httpx.AsyncClient, writer: LiveWriter
) -> None:
    """A player follows it from the first address on, and knows nothing of links."""
    link = await link_of(services, writer)
    (variant,) = m3u8.loads((await http.get(f"{writer.path}/index.m3u8?link={link}")).text).playlists
    address = f"{writer.path}/{variant.uri}"
    answer = await http.get(address)
    assert answer.status_code == 200
    assert answer.headers["referrer-policy"] == "no-referrer"
    listing = check_playlist(answer.text)
    assert len(listing.entries) == 8
    for entry in listing.entries:
        assert entry.uri.endswith(f".m4s?link={link}")
        piece = await http.get(f"{writer.path}/{entry.uri}")
        assert piece.status_code == 200
        assert "immutable" in piece.headers["cache-control"]
        assert "public" not in piece.headers["cache-control"]
    parsed = m3u8.loads(answer.text)
    assert (await http.get(f"{writer.path}/{parsed.segment_map[0].uri}")).content == writer.epochs[0].init
    delta = await http.get(f"{address}&_HLS_skip=YES&_HLS_msn=7")
    assert check_playlist(delta.text).skipped == 2
    assert apply_delta(answer.text, delta.text) == answer.text
    window = await http.get(f"{address}&window=6")
    assert [entry.uri for entry in check_playlist(window.text).entries] == [f"0/{n}.m4s?link={link}" for n in (5, 6, 7)]
    assert link not in services.stream.log
    assert link not in services.upload.log


async def test_a_link_of_one_stream_opens_nothing_else(
    services: Services, http: httpx.AsyncClient, writer: LiveWriter
) -> None:
    link = await link_of(services, writer)
    other = "0123456789abcdef0123456789abcdef"
    for path in (f"/live/{other}/media.m3u8", f"/live/{other}/0/1.m4s", f"/files/team/a/{writer.id}.mp4", "/file"):
        answer = await http.get(f"{path}?link={link}")
        assert answer.status_code == 403
        assert "it is " in answer.json()["detail"]
    reading = Link(
        id=SIGNER.new_id("alice"),
        kind="get",
        name=MediaName("team/a", f"{writer.id}.mp4"),
        expires_at=time.time() + 60,
        subject="alice",
        issued_at=time.time(),
    )
    for link_to_file in (reading, replace(reading, kind="put"), replace(reading, kind="live", version=other)):
        text = SIGNER.sign(link_to_file)
        assert (await http.get(f"{writer.path}/media.m3u8?link={text}")).status_code == 403


async def test_who_may_make_a_link(services: Services, writer: LiveWriter) -> None:
    assert (await make_link(services, "link read:team/b", stream=writer.id)).status_code == 403
    assert (await make_link(services, "read", stream=writer.id)).status_code == 403
    assert (await make_link(services, "link read", stream="0123456789abcdef")).status_code == 404
    for options in (
        {},
        {"stream": writer.id, "filename": "x"},
        {"stream": writer.id, "follow": "true"},
        {"stream": "../x"},
    ):
        assert (await make_link(services, "link read", **options)).status_code == 400
    body = {"links": [{"kind": "get", "filename": "x", "stream": writer.id}]}
    async with httpx.AsyncClient(base_url=services.upload.url, timeout=20) as client:
        made = await client.post("/file/link", json=body, headers=authorized("link read"))
    assert made.status_code == 400


async def test_the_gateway_holds_reloads_too_and_logs_no_link(
    services: Services, start_service: StartService, writer: LiveWriter
) -> None:
    urls = {"GRIDCAST_UPLOAD_URLS": services.upload.url, "GRIDCAST_STREAM_URLS": services.stream.url}
    gateway = start_service("gateway", ready=False, GRIDCAST_AUTH="hs256", **urls)
    link = await link_of(services, writer)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http:

        async def is_listed() -> bool:
            return (await http.get(f"{writer.path}/index.m3u8?link={link}")).status_code == 200

        await eventually(is_listed)
        held = asyncio.create_task(http.get(f"{writer.path}/media.m3u8?_HLS_msn=8&link={link}"))
        await writer.add_segments(1)
        answer = await held
        assert len(check_playlist(answer.text).entries) == 9
        assert answer.headers["content-encoding"] == "gzip"
        piece = await http.get(f"{writer.path}/0/8.m4s?link={link}", headers={"range": "bytes=0-9"})
        assert (piece.status_code, len(piece.content)) == (206, 10)
        assert "immutable" in piece.headers["cache-control"]
    assert link not in gateway.log
    assert link not in services.stream.log


async def test_a_revoked_link_ends_what_it_waits_for(
    services: Services, http: httpx.AsyncClient, writer: LiveWriter
) -> None:
    made = await make_link(services, "link read", stream=writer.id)
    (link,) = made.json()["links"]
    address = f"{writer.path}/media.m3u8?link={link['link']}"
    assert (await http.get(address)).status_code == 200
    async with httpx.AsyncClient(base_url=services.upload.url, timeout=20) as client:
        gone = await client.delete(f"/file/link/{link['id']}", headers=authorized("link", "alice"))
    assert gone.status_code == 204

    async def is_refused() -> bool:
        return (await http.get(address)).status_code == 403

    await eventually_async(is_refused, 5)
