"""Limits of live streams: what is said at creation, what warns, what ends a stream, and that its file is kept."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from services.common.settings import StoreSettings
from services.common.store.limits import BLOCK_SIZE
from services.common.store.quotas import Quota, QuotaExceeded
from services.live.intake import Intake, IntakeRules, LimitReached
from services.live.recordings import Recordings
from services.live.stream_limits import Extent, StreamLimits
from services.live.stream_memory import StreamMemories
from services.live.stream_writer import StreamWriter
from tests.integration.test_live_ending import Service
from tests.support.databases import ServerProcess, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.opened_stores import opened_store, with_stores
from tests.support.processes import ServiceProcess, StartService, run_service
from tests.support.tokens import AUTH_ENV, bearer, token

BOTH = with_stores(("gridfs-motor",), ("files-sqlite",))


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    return {"GRIDCAST_LIVE_MAX_DURATION": "6", "GRIDCAST_LIVE_MAX_BYTES": "2000000"}


def test_a_stream_that_is_long_enough_ends_with_its_file(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.made["limits"]["duration"] == 6
    sent = init() + b"".join(fragment(at, 1) for at in range(6))
    answer = client.patch(0, sent + fragment(6, 1))
    assert (answer.status_code, "limit of duration" in answer.json()["detail"]) == (413, True)
    described = client.get()
    assert (described["state"], described["reason"]) == ("ended", "limit of duration")
    assert read_file(library, client)[BLOCK_SIZE:].startswith(media_of(sent))
    assert client.patch(len(sent), b"x").status_code == 410


def test_a_stream_that_is_large_enough_ends_with_its_file(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    answer = client.post(init() + b"".join(fragment(at, 1, fill=600_000) for at in range(4)))
    assert answer.status_code == 413
    described = client.get()
    assert (described["state"], described["reason"]) == ("ended", "limit of bytes")
    assert len(read_file(library, client)) == described["file"]["length"]


@pytest.fixture(scope="module")
def guarded(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service with authentication, one stream for each subject, and a pace."""
    more = {"GRIDCAST_LIVE_MAX_STREAMS_PER_OWNER": "1", "GRIDCAST_LIVE_INTAKE_FACTOR": "4"}
    env = storage_env(mongod, redis_server.url, "live_guarded", **AUTH_ENV, **more)
    with run_service("services.live", tmp_path_factory.mktemp("guarded"), env) as service:
        yield service


def test_streams_of_one_subject_are_limited(guarded: ServiceProcess) -> None:
    alice, bob = bearer(token("alice", "publish read")), bearer(token("bob", "publish:team-b read:team-b"))
    wanted = {"filename": "a.mp4"}
    made = httpx.post(f"{guarded.url}/live", json=wanted, headers=alice)
    assert made.status_code == 201
    second = httpx.post(f"{guarded.url}/live", json={"filename": "b.mp4"}, headers=alice)
    assert (second.status_code, "1 live streams" in second.text) == (429, True)
    assert httpx.post(f"{guarded.url}/live", json=wanted, headers=bob).status_code == 403
    own = httpx.post(f"{guarded.url}/live", json={"filename": "b.mp4", "folder": "team-b"}, headers=bob)
    assert own.status_code == 201
    stream_id = made.json()["id"]
    assert httpx.get(f"{guarded.url}/live/{stream_id}", headers=bob).status_code == 403
    assert httpx.post(f"{guarded.url}/live/{stream_id}/end", headers=bob).status_code == 403
    listed = httpx.get(f"{guarded.url}/live", headers=bob).json()["streams"]
    assert [(one["folder"], one["owner"]) for one in listed] == [("team-b", "bob")]
    assert len(httpx.get(f"{guarded.url}/live", headers=alice).json()["streams"]) == 2
    assert httpx.post(f"{guarded.url}/live/{stream_id}/end", headers=alice).status_code == 200
    media = httpx.post(f"{guarded.url}/live/{stream_id}/media", content=b"x", headers=alice)
    assert media.status_code == 403  # a token of the instance is none of the stream


def test_media_is_taken_at_four_times_its_speed(guarded: ServiceProcess) -> None:
    """Row 36."""
    headers = bearer(token("carol", "publish read"))
    made = httpx.post(f"{guarded.url}/live", json={"filename": "c.mp4"}, headers=headers).json()
    assert made["limits"]["speed"] == 4
    sent = init() + b"".join(fragment(at, 1) for at in range(18))
    began = time.monotonic()
    fields = {"authorization": f"Bearer {made['publish_token']}"}
    url = f"{guarded.url}{made['media']}"

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(sent), 500):
            yield sent[start : start + 500]

    assert httpx.post(url, content=pieces(), headers=fields, timeout=30).status_code == 204
    assert 1.5 < time.monotonic() - began < 10


def test_a_stream_whose_rate_is_too_high_ends_with_its_file(
    live_env: dict[str, str], library: ServiceProcess, start_service: StartService
) -> None:
    """Row 33."""
    env = {**live_env, "GRIDCAST_LIVE_MAX_RATE": "2000", "GRIDCAST_LIVE_MAX_DURATION": "3600"}
    service = start_service("services.live", **env)
    client = make_stream(service)
    assert client.made["limits"]["rate"] == 2000
    answer = client.post(init() + b"".join(fragment(at, 2, fill=6000) for at in range(0, 60, 2)))
    assert (answer.status_code, "limit of rate" in answer.json()["detail"]) == (413, True)
    described = client.get()
    assert (described["state"], described["reason"]) == ("ended", "limit of rate")
    assert described["duration"] >= 30
    assert len(read_file(library, client)) == described["file"]["length"]


@pytest.mark.parametrize("way", ["body", "tus", "objects"])
def test_without_room_in_the_quota_a_publisher_is_507_and_the_file_is_kept(
    live_env: dict[str, str], start_service: StartService, way: str
) -> None:
    """Row 34."""
    env = {**live_env, **AUTH_ENV, "GRIDCAST_MAX_BYTES_PER_OWNER": "1500000", "GRIDCAST_LIVE_MAX_DURATION": "3600"}
    service, library = start_service("services.live", **env), start_service("services.stream", **env)
    headers = bearer(token(f"{way}-owner", "publish read"))
    made = httpx.post(f"{service.url}/live", json={"filename": f"{way} full.mp4"}, headers=headers, timeout=30)
    client = LiveClient(service.url, made.raise_for_status().json())
    fragments = [fragment(at, 1, fill=100_000) for at in range(20)]
    if way == "body":
        answer = client.post(init() + b"".join(fragments))
    elif way == "tus":
        answer = client.patch(0, init() + b"".join(fragments))
    else:
        answers = (client.put(f"seg{number}.m4s", data) for number, data in enumerate([init(), *fragments]))
        answer = next(one for one in answers if one.status_code != 200)
    assert answer.status_code == 507
    described = httpx.get(f"{service.url}/live/{client.id}", headers=headers, timeout=30).json()
    assert (described["state"], described["reason"]) == ("ended", "limit of storage")
    assert described["duration"] >= 4
    query = {"folder": "", "filename": f"{way} full.mp4"}
    file = httpx.get(f"{library.url}/file/stream", params=query, headers=headers, timeout=30).raise_for_status()
    assert len(file.content) == described["file"]["length"] <= 1_500_000
    assert client.post(init()).status_code == 410


@pytest.fixture
async def limited(stores: list[StoreSettings]) -> AsyncIterator[Service]:
    async with opened_store(stores[0], quota=Quota(2_000_000, 10)) as store:
        yield Service(store)


async def open_intake(service: Service, stream_id: str) -> Intake:
    stream = await service.ender.get(stream_id)
    writer = await StreamWriter.open(service.stores, stream, "tus/1", lambda _: None)
    memory = StreamMemories().get(stream_id, 0.0, Extent(0, 0.0))
    events: Any = service.recorded
    recordings = Recordings(service.stores, service.ender)
    rules = IntakeRules(0.0)
    return Intake(writer, recordings, events, memory, rules, "sid", lambda _: None, takes_renditions=True)


async def feed_each(intake: Intake, fragments: list[bytes]) -> None:
    await intake.feed(init())
    for one in fragments:
        await intake.feed(one)


@BOTH
@pytest.mark.anyio
async def test_what_is_published_of_a_stream(limited: Service) -> None:
    stream_id = await limited.make()
    intake = await open_intake(limited, stream_id)
    await intake.feed(init() + fragment(0, 2) + fragment(2, 2))
    assert limited.recorded.types == []
    await intake.feed(fragment(4, 2))
    assert limited.recorded.types == ["live.started"]
    started = limited.recorded.events[0][1]
    assert (started["width"], started["playlist"]) == (160, f"/live/{stream_id}/index.m3u8")
    while (await limited.ender.get(stream_id)).state != "interrupted":
        await limited.idle.run_once()
    await intake.feed(fragment(6, 2))
    assert limited.recorded.types == ["live.started", "live.interrupted", "live.resumed"]
    await intake.feed(fragment(8, 5))
    assert limited.recorded.events[-1] == ("live.warning", {"kind": "gop", "target": 2})
    await intake.feed(fragment(13, 5))
    assert limited.recorded.types[-1] == "live.warning"
    assert limited.recorded.types.count("live.warning") == 1
    assert limited.recorded.received[-1][1] == 5
    await intake.writer.close()


@BOTH
@pytest.mark.anyio
async def test_key_frames_that_are_too_rare_are_warned_of_once(limited: Service) -> None:
    """Row 9: fragments are short enough, and segments begin without a key frame."""
    stream_id = await limited.make()
    intake = await open_intake(limited, stream_id)
    await feed_each(intake, [fragment(at, 1) for at in range(6)])
    assert "live.warning" not in limited.recorded.types
    await feed_each(intake, [fragment(at, 1, key=at % 6 == 0) for at in range(6, 24)])
    warned = [data for kind, data in limited.recorded.events if kind == "live.warning"]
    assert warned == [{"kind": "gop", "target": 2}]
    await intake.writer.close()


@BOTH
@pytest.mark.anyio
async def test_a_short_stream_is_warned_before_its_end(limited: Service) -> None:
    """Row 33: a limit of less than five minutes is warned of in proportion, once."""
    stream_id = await limited.make()
    intake = await open_intake(limited, stream_id)
    intake._limits = StreamLimits(1 << 34, 20.0)
    with pytest.raises(LimitReached, match="duration"):
        await feed_each(intake, [fragment(at, 1) for at in range(25)])
    warned = [data for kind, data in limited.recorded.events if kind == "live.warning"]
    assert [(one["kind"], one["limit"]) for one in warned] == [("limit", "duration")]
    assert 2 <= warned[0]["seconds"] <= 4
    await intake.writer.close()


@BOTH
@pytest.mark.anyio
async def test_a_quota_ends_a_stream_where_it_is(limited: Service) -> None:
    """Row 34."""
    stream_id = await limited.make()
    intake = await open_intake(limited, stream_id)
    with pytest.raises(QuotaExceeded):
        await feed_each(intake, [fragment(at, 1, fill=100_000) for at in range(40)])
    stored = intake.writer.stored_position
    assert stored.last_segment > 2
    await intake.writer.close()
    ended = await limited.ender.end(stream_id, "limit of storage")
    assert (ended.state, ended.reason, ended.revision) == ("ended", "limit of storage", 1)
    assert ended.position.offset == stored.offset


@BOTH
@pytest.mark.anyio
async def test_a_rate_that_is_too_high_ends_a_stream(limited: Service) -> None:
    stream_id = await limited.make()
    intake = await open_intake(limited, stream_id)
    intake._limits = StreamLimits(1 << 34, 86400.0, 1000)
    with pytest.raises(LimitReached, match="rate"):
        await feed_each(intake, [fragment(at * 2, 2, fill=3000) for at in range(20)])
    assert "rate" in [data.get("kind") for kind, data in limited.recorded.events if kind == "live.warning"]
    await intake.writer.close()
