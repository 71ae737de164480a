"""Viewers of live streams while Redis, the database or a replica is away."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, needs_server, storage_env
from tests.support.hls_rules import check_playlist, check_reload
from tests.support.live_replicas import live_writer, prepare_store
from tests.support.live_writer import LiveWriter
from tests.support.processes import StartService, run_service
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio

DATABASE = "test_stream_live_faults"


@pytest.fixture(scope="module", autouse=True)
def prepared(mongod: ServerProcess) -> None:
    """The services of this module find their tables."""
    prepare_store(mongod, DATABASE)


async def is_listed(url: str, writer: LiveWriter) -> bool:
    async with httpx.AsyncClient(timeout=20) as http:
        return (await http.get(f"{url}{writer.path}/media.m3u8")).status_code == 200


async def read_list(url: str, writer: LiveWriter, query: str = "") -> str:
    async with httpx.AsyncClient(timeout=20) as http:
        answer = await http.get(f"{url}{writer.path}/media.m3u8{query}")
        assert answer.status_code == 200, answer.text
        return answer.text


async def test_without_redis_lists_go_on_by_asking_the_store(
    start_service: StartService, mongod: ServerProcess, dedicated_redis: ServerProcess
) -> None:
    """Row 25. Redis is killed, comes back empty, and is killed again: each reload is answered with its segment."""
    service = start_service("services.stream", **storage_env(mongod, dedicated_redis.url, DATABASE))
    async with live_writer(mongod, dedicated_redis.url, DATABASE) as writer:
        await writer.add_segments(4)
        before = await read_list(service.url, writer)
        for step in ("killed", "back", "killed"):
            if step == "killed":
                dedicated_redis.kill()
            else:
                dedicated_redis.start()
            number = len(writer.segments)
            held = asyncio.create_task(read_list(service.url, writer, f"?_HLS_msn={number}"))
            await writer.add_segments(1, wake=step == "back")
            text = await held
            check_reload(before, text)
            assert len(check_playlist(text).entries) == number + 1
            before = text
        held = asyncio.create_task(read_list(service.url, writer, f"?_HLS_msn={len(writer.segments)}"))
        await writer.end(wake=False)
        assert check_playlist(await held).ended
        dedicated_redis.start()


@needs_server
async def test_without_the_database_the_list_stays_and_cached_segments_are_served(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_server: ServerProcess
) -> None:
    """Row 24. What waits is 503 with Retry-After; after that all goes on."""
    service = start_service("services.stream", **storage_env(dedicated_mongod, redis_server.url, DATABASE))
    async with live_writer(dedicated_mongod, redis_server.url, DATABASE, target=1) as writer:
        await writer.add_segments(4)
        before = await read_list(service.url, writer)
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as http:
            segment = await http.get(f"{writer.path}/0/3.m4s")
            assert segment.status_code == 200
            dedicated_mongod.kill()
            assert await read_list(service.url, writer) == before
            late = await http.get(f"{writer.path}/media.m3u8?_HLS_msn=4")
            assert late.status_code == 503
            assert int(late.headers["retry-after"]) >= 1
            assert (await http.get(f"{writer.path}/0/3.m4s")).content == segment.content
            assert (await http.get(f"{writer.path}/0/1.m4s")).status_code == 503
            dedicated_mongod.start()

            async def goes_on() -> bool:
                return (await http.get(f"{writer.path}/0/1.m4s")).status_code == 200

            await eventually_async(goes_on, 20)
            assert await read_list(service.url, writer) == before


@pytest.fixture
async def writer(mongod: ServerProcess, redis_server: ServerProcess) -> AsyncIterator[LiveWriter]:
    async with live_writer(mongod, redis_server.url, DATABASE) as writer:
        await writer.add_segments(4)
        yield writer


async def test_a_replica_that_is_killed_with_all_who_wait_is_replaced_by_another(
    tmp_path: Path, mongod: ServerProcess, redis_server: ServerProcess, writer: LiveWriter
) -> None:
    """Row 28: clients ask again, and get the same list from a replica that has just been started."""
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", tmp_path, env) as first:
        before = await read_list(first.url, writer)
        held = [asyncio.create_task(read_list(first.url, writer, "?_HLS_msn=4")) for _ in range(50)]
        await asyncio.sleep(0.3)
        first.child.send_signal(signal.SIGKILL)
        failed = await asyncio.gather(*held, return_exceptions=True)
        assert all(isinstance(result, Exception) for result in failed)
    with run_service("services.stream", tmp_path, env) as second:
        held = [asyncio.create_task(read_list(second.url, writer, "?_HLS_msn=4")) for _ in range(50)]
        await eventually_async(lambda: is_listed(second.url, writer))
        await writer.add_segments(1)
        (text,) = set(await asyncio.gather(*held))
        check_reload(before, text)


async def test_a_gateway_that_is_killed_with_all_who_wait_is_asked_again(
    tmp_path: Path, mongod: ServerProcess, redis_server: ServerProcess, writer: LiveWriter
) -> None:
    """Row 28: the reloads of a gateway that was killed leave the service, and each one that comes again gets its list."""
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", tmp_path, env) as service:
        urls = {f"GRIDCAST_{name}_URLS": service.url for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")}
        with run_service("gateway", tmp_path, urls) as first:
            port, url = first.port, first.url
            before = await read_list(url, writer)
            held = [asyncio.create_task(read_list(url, writer, "?_HLS_msn=4")) for _ in range(50)]
            await asyncio.sleep(0.3)
            first.child.send_signal(signal.SIGKILL)
            failed = await asyncio.gather(*held, return_exceptions=True)
            assert all(isinstance(result, Exception) for result in failed)
        with run_service("gateway", tmp_path, urls, port=port):
            held = [asyncio.create_task(read_list(url, writer, "?_HLS_msn=4")) for _ in range(50)]
            await eventually_async(lambda: is_listed(url, writer))
            await writer.add_segments(1)
            (text,) = set(await asyncio.gather(*held))
            check_reload(before, text)
        assert "Traceback" not in service.log


async def test_a_replica_that_is_stopped_answers_who_waits(
    tmp_path: Path, mongod: ServerProcess, redis_server: ServerProcess, writer: LiveWriter
) -> None:
    """SIGTERM: within the time for shutting down each gets an answer, the list or 503."""
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", tmp_path, env) as service:
        assert await is_listed(service.url, writer)

        async def ask() -> int:
            async with httpx.AsyncClient(timeout=20) as http:
                return (await http.get(f"{service.url}{writer.path}/media.m3u8?_HLS_msn=4")).status_code

        held = [asyncio.create_task(ask()) for _ in range(20)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(service.terminate)
        assert set(await asyncio.gather(*held)) <= {200, 503}
