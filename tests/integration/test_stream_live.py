"""Lists, segments and initialisation segments of live streams at running stream services, over the store that is chosen."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.common.bus.redis import RedisClient
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.timings import StoreTimings
from tests.support.databases import FilesFolder, ServerProcess, storage_env
from tests.support.hls_rules import apply_delta, check_playlist, check_reload
from tests.support.live_writer import LiveWriter
from tests.support.opened_stores import opened_store
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio

DATABASE = "test_stream_live"


@dataclass(frozen=True)
class Replicas:
    """Two stream services on one store."""

    one: ServiceProcess
    two: ServiceProcess


def store_settings(mongod: ServerProcess) -> StoreSettings:
    if isinstance(mongod, FilesFolder):
        return StoreSettings(store="files", files_dir=str(mongod.data_dir / DATABASE))
    return StoreSettings(mongodb_uri=mongod.url, mongodb_database=DATABASE)


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Replicas]:
    logs = tmp_path_factory.mktemp("live")
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", logs, env) as one, run_service("services.stream", logs, env) as two:
        yield Replicas(one, two)


@pytest.fixture
async def store(mongod: ServerProcess) -> AsyncIterator[MediaStore]:
    async with opened_store(store_settings(mongod), StoreTimings()) as opened:
        yield opened


@pytest.fixture
async def redis(redis_server: ServerProcess) -> AsyncIterator[RedisClient]:
    client = RedisClient.from_url(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def http(replicas: Replicas) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=replicas.one.url, timeout=20, limits=limits) as client:
        yield client


@pytest.fixture
async def writer(store: MediaStore, redis: RedisClient) -> LiveWriter:
    return await LiveWriter(store, redis).create()


async def read_list(http: httpx.AsyncClient, writer: LiveWriter, query: str = "") -> str:
    answer = await http.get(f"{writer.path}/media.m3u8{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
    return answer.text


async def until_listed(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    async def is_listed() -> bool:
        return (await http.get(f"{writer.path}/media.m3u8")).status_code == 200

    await eventually_async(is_listed)


async def test_a_list_grows_by_its_segments_and_ends_as_it_was(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    assert (await http.get(f"{writer.path}/media.m3u8")).status_code == 404
    await writer.add_segments(2)
    early = await http.get(f"{writer.path}/media.m3u8")
    assert early.status_code == 404, "a list of less than three targets"
    assert early.headers["cache-control"] == "no-store"
    before = ""
    await writer.add_segments(1)
    await until_listed(http, writer)
    for _ in range(3):
        await writer.add_segments(1)
        text = await read_list(http, writer, f"?_HLS_msn={len(writer.segments) - 1}")
        listing = check_playlist(text)
        assert len(listing.entries) == len(writer.segments)
        if before:
            check_reload(before, text)
        before = text
    await writer.add_segments(1)
    await writer.end()
    text = await read_list(http, writer, f"?_HLS_msn={len(writer.segments)}")
    check_reload(before, text)
    assert text.endswith("#EXT-X-ENDLIST\n")


async def test_segments_are_the_bytes_of_the_file_before_and_after_the_end(
    http: httpx.AsyncClient, writer: LiveWriter
) -> None:
    await writer.add_segments(4, fill=150_000)
    await read_list(http, writer)
    one = writer.segments[2]
    address = f"{writer.path}/0/2.m4s"
    live = await http.get(address)
    assert live.status_code == 200
    assert len(live.content) == one.size
    assert live.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert live.headers["accept-ranges"] == "bytes"
    init = await http.get(f"{writer.path}/0/init.mp4")
    assert init.content == writer.epochs[0].init
    assert init.headers["cache-control"] == "public, max-age=31536000, immutable"
    part = await http.get(address, headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, live.content[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{one.size}"
    head = await http.head(address)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(one.size), b"")
    same = await http.get(address, headers={"if-none-match": live.headers["etag"]})
    assert same.status_code == 304
    beyond = await http.get(address, headers={"range": f"bytes={one.size}-"})
    assert beyond.status_code == 416

    info = await writer.end()
    await read_list(http, writer, "?_HLS_msn=9")
    for number in range(4):
        found = await http.get(f"{writer.path}/0/{number}.m4s")
        assert found.status_code == 200
        assert len(found.content) == writer.segments[number].size
        assert found.headers["etag"] == f'"{writer.id}-{number}"'
    assert (await http.get(address)).content == live.content
    file = await http.get("/file/stream", params={"folder": info.folder, "filename": info.filename})
    assert file.content[one.offset : one.offset + one.size] == live.content
    part = await http.get(f"{writer.path}/0/3.m4s", headers={"range": "bytes=290000-299999"})
    whole = (await http.get(f"{writer.path}/0/3.m4s")).content
    assert part.content == whole[290_000:300_000]


async def test_a_held_reload_is_answered_when_its_segment_comes(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    await writer.add_segments(3)
    held = asyncio.create_task(read_list(http, writer, "?_HLS_msn=3"))
    old = await read_list(http, writer, "?_HLS_msn=1")
    await asyncio.sleep(0)
    assert not held.done()
    await writer.add_segments(1)
    text = await held
    check_reload(old, text)
    assert check_playlist(text).entries[-1].uri == "0/3.m4s"
