"""Lists, segments and initialisation segments of live streams at running stream services, over the store that is chosen."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import m3u8
import pytest

from gridcast._bus.keys import topic_channel
from gridcast._bus.wakeup import Wakeup
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.live.viewer_counts import count_key
from services.common.media import MediaName
from services.common.store.factory import MediaStore
from services.common.store.live_store import DELETED
from services.common.store.timings import StoreTimings
from tests.support.databases import ServerProcess, storage_env
from tests.support.fragmented_mp4 import fragment
from tests.support.hls_rules import apply_delta, check_playlist, check_reload
from tests.support.live_replicas import prepare_store, store_settings
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


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Replicas]:
    logs = tmp_path_factory.mktemp("live")
    prepare_store(mongod, DATABASE)
    env = storage_env(mongod, redis_server.url, DATABASE)
    with run_service("services.stream", logs, env) as one, run_service("services.stream", logs, env) as two:
        yield Replicas(one, two)


@pytest.fixture
async def store(mongod: ServerProcess) -> AsyncIterator[MediaStore]:
    async with opened_store(store_settings(mongod, DATABASE), StoreTimings()) as opened:
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


@pytest.fixture
async def listed(http: httpx.AsyncClient, writer: LiveWriter) -> LiveWriter:
    """A stream of four segments, whose last one was asked for."""
    await writer.add_segments(4)
    await until_listed(http, writer)
    await read_list(http, writer, "?_HLS_msn=3")
    return writer


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


async def test_all_that_wait_are_answered_together_at_the_end(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    """Row 30: the last segment and ENDLIST come in one list."""
    await writer.add_segments(4)
    before = await read_list(http, writer, "?_HLS_msn=2")
    number = len(writer.segments)
    held = [asyncio.create_task(read_list(http, writer, f"?_HLS_msn={number}")) for _ in range(50)]
    deltas = [asyncio.create_task(read_list(http, writer, f"?_HLS_msn={number + 1}&_HLS_skip=YES")) for _ in range(5)]
    await writer.send(fragment(8, 1), wake=False)  # half a segment, which is not listed
    assert not any(task.done() for task in held)
    await writer.end()
    texts = set(await asyncio.gather(*held, *deltas))
    assert len(texts) == 1
    text = texts.pop()
    check_reload(before, text)
    listing = check_playlist(text)
    assert listing.ended
    assert len(listing.entries) == len(writer.segments) == number + 1


async def test_a_list_that_was_never_long_enough_is_listed_at_its_end(
    http: httpx.AsyncClient, writer: LiveWriter
) -> None:
    await writer.add_segments(1)
    await writer.end()
    await until_listed(http, writer)
    assert check_playlist(await read_list(http, writer)).ended


@pytest.mark.parametrize(
    "query",
    [
        *("_HLS_msn=7", "_HLS_msn=-1", "_HLS_msn=x", "_HLS_msn=1&_HLS_msn=1", "_HLS_part=0", "_HLS_skip=NO"),
        *("window=-1", "window=x", "window=1&window=2", "window=99999999", "window=%ff"),
    ],
)
async def test_directives_without_a_meaning(http: httpx.AsyncClient, listed: LiveWriter, query: str) -> None:
    """Row 31: 400 that names the fault, and is not kept."""
    answer = await http.get(f"{listed.path}/media.m3u8?{query}")
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert "Validation Error" in answer.json()["detail"]


async def test_old_numbers_are_answered_at_once_with_the_whole_list(
    http: httpx.AsyncClient, listed: LiveWriter
) -> None:
    """Row 31. What answers a number is final for its address; without one it is as good as half a target."""
    answer = await http.get(f"{listed.path}/media.m3u8?_HLS_msn=0&_HLS_part=3")
    assert len(check_playlist(answer.text).entries) == 4
    assert answer.headers["cache-control"] == "public, max-age=12"
    assert (await http.get(f"{listed.path}/media.m3u8")).headers["cache-control"] == "public, max-age=1"


@pytest.mark.parametrize(
    "path", ["0/4.m4s", "1/0.m4s", "0/9999999999.m4s", "1/init.mp4", "0/00.m4s", "0/-1.m4s", "x/0.m4s", "0/0.mp4"]
)
async def test_unknown_segments(http: httpx.AsyncClient, listed: LiveWriter, path: str) -> None:
    """404 with `no-store`: the segment may still be produced."""
    answer = await http.get(f"{listed.path}/{path}")
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


async def test_unknown_streams_and_methods(http: httpx.AsyncClient, listed: LiveWriter) -> None:
    for path in ("/live/0123456789abcdef/media.m3u8", "/live/0123456789abcdef/0/0.m4s", "/live/UPPER-CASE/media.m3u8"):
        assert (await http.get(path)).status_code == 404
    assert (await http.post(f"{listed.path}/media.m3u8")).status_code == 405


async def test_head_of_lists_and_segments_is_get_without_a_body(http: httpx.AsyncClient, listed: LiveWriter) -> None:
    """Row 40. Nothing in the answer depends on the viewer's clock."""
    for path in ("media.m3u8", "index.m3u8", "0/init.mp4", "0/0.m4s", "media.m3u8?_HLS_msn=1"):
        for headers in ({"accept-encoding": "gzip"}, {"accept-encoding": "identity"}):
            get = await http.get(f"{listed.path}/{path}", headers=headers)
            head = await http.head(f"{listed.path}/{path}", headers=headers)
            assert (head.status_code, head.content) == (200, b"")
            assert {**head.headers, "date": "", "x-request-id": ""} == {**get.headers, "date": "", "x-request-id": ""}


@pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"])
async def test_the_clock_of_a_viewer_changes_nothing(http: httpx.AsyncClient, listed: LiveWriter, date: str) -> None:
    """Row 40: no list, which may have grown, is "not modified", and no segment is missing."""
    for path in ("media.m3u8", "index.m3u8", "0/init.mp4", "0/0.m4s", "media.m3u8?_HLS_msn=1"):
        plain = await http.get(f"{listed.path}/{path}")
        fields = {"date": date} | ({"if-modified-since": date} if "m3u8" in path else {})
        dated = await http.get(f"{listed.path}/{path}", headers=fields)
        assert (dated.status_code, dated.content) == (200, plain.content)


async def test_lists_are_compressed_where_the_client_takes_it(http: httpx.AsyncClient, listed: LiveWriter) -> None:
    for query in ("", "?window=6", "?_HLS_skip=YES"):
        plain = await http.get(f"{listed.path}/media.m3u8{query}", headers={"accept-encoding": "gzip;q=0, br"})
        assert "content-encoding" not in plain.headers
        packed = await http.get(f"{listed.path}/media.m3u8{query}", headers={"accept-encoding": "br, gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.text == plain.text
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


async def test_the_first_list_names_one_variant(http: httpx.AsyncClient, listed: LiveWriter) -> None:
    parsed = m3u8.loads((await http.get(f"{listed.path}/index.m3u8?window=6")).text)
    (variant,) = parsed.playlists
    assert variant.uri == "media.m3u8?window=6"
    assert variant.stream_info.codecs == "avc1.64000a,mp4a"
    assert variant.stream_info.resolution == (160, 90)
    sizes = [8 * segment.size / segment.seconds for segment in listed.segments]
    assert variant.stream_info.bandwidth >= max(sizes) - 1


async def test_a_window_slides_and_its_segments_stay(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    """Row 32."""
    await writer.add_segments(8)
    await until_listed(http, writer)
    first = await read_list(http, writer, "?window=8&_HLS_msn=7")
    assert check_playlist(first).sequence == 4
    await writer.begin_epoch()
    for _ in range(3):
        await writer.add_segments(1)
        text = await read_list(http, writer, f"?window=8&_HLS_msn={len(writer.segments) - 1}")
        check_reload(first, text)
        first = text
    listing = check_playlist(first)
    assert listing.sequence == 7
    assert "CAN-SKIP-UNTIL" not in first
    for number in (0, 3, 6):
        assert (await http.get(f"{writer.path}/0/{number}.m4s")).status_code == 200
    whole = check_playlist(await read_list(http, writer))
    assert len(whole.entries) == 11
    assert [entry.discontinuity for entry in whole.entries].index(True) == 8


async def test_the_window_of_a_stream_is_that_of_its_list(
    http: httpx.AsyncClient, store: MediaStore, redis: RedisClient
) -> None:
    writer = await LiveWriter(store, redis).create(window=6)
    await writer.add_segments(9)
    await until_listed(http, writer)
    assert check_playlist(await read_list(http, writer)).sequence == 6
    assert check_playlist(await read_list(http, writer, "?window=0")).sequence == 0


async def test_a_delta_and_the_list_before_make_the_whole_list(http: httpx.AsyncClient, writer: LiveWriter) -> None:
    await writer.add_segments(20)
    await until_listed(http, writer)
    before = await read_list(http, writer, "?_HLS_msn=19")
    await writer.add_segments(2)
    delta = await read_list(http, writer, "?_HLS_msn=21&_HLS_skip=YES")
    assert check_playlist(delta).skipped == 16
    assert apply_delta(before, delta) == await read_list(http, writer)


async def test_while_interrupted_the_list_is_answered_as_it_was(http: httpx.AsyncClient, store: MediaStore) -> None:
    """Notes 6.6. The stream has targets of 1 s, so that a request is held for 3 s."""
    writer = await LiveWriter(store, None, target=1).create()
    await writer.add_segments(4)
    before = await read_list(http, writer)
    held_live = asyncio.create_task(http.get(f"{writer.path}/media.m3u8?_HLS_msn=4"))
    late = await held_live
    assert late.status_code == 503
    assert int(late.headers["retry-after"]) >= 1
    assert late.headers["cache-control"] == "no-store"
    await writer.set_state("interrupted")
    answer = await http.get(f"{writer.path}/media.m3u8?_HLS_msn=4")
    assert (answer.status_code, answer.text) == (200, before)
    assert answer.headers["cache-control"] == "no-store"
    await writer.add_segments(1)
    assert len(check_playlist(await read_list(http, writer, "?_HLS_msn=4")).entries) == 5


async def test_both_replicas_answer_the_same(http: httpx.AsyncClient, replicas: Replicas, writer: LiveWriter) -> None:
    """One knows the stream from its beginning, the other one from its second epoch on."""
    await writer.add_segments(5)
    await until_listed(http, writer)
    await writer.begin_epoch()
    await writer.add_segments(5)
    first = await read_list(http, writer, "?_HLS_msn=9")
    other = await http.get(f"{replicas.two.url}{writer.path}/media.m3u8")
    assert other.text == first
    check_playlist(first)
    for path in ("0/4.m4s", "1/7.m4s", "1/init.mp4"):
        assert (await http.get(f"{writer.path}/{path}")).content == (
            await http.get(f"{replicas.two.url}{writer.path}/{path}")
        ).content


async def test_who_knows_more_than_this_replica_is_not_refused(http: httpx.AsyncClient, store: MediaStore) -> None:
    """Another replica has listed segments that this one has not heard of: no wake-up reaches it here."""
    writer = await LiveWriter(store, None).create()
    await writer.add_segments(4)
    await until_listed(http, writer)
    await writer.add_segments(3)
    assert (await http.get(f"{writer.path}/0/6.m4s")).status_code == 200
    await writer.add_segments(3)
    assert len(check_playlist(await read_list(http, writer, "?_HLS_msn=9")).entries) == 10


async def test_blocking_reloads_are_offered_after_a_steady_cadence(
    http: httpx.AsyncClient, replicas: Replicas, store: MediaStore, redis: RedisClient
) -> None:
    """And then by all replicas, also by one that has just begun to serve the stream."""
    writer = await LiveWriter(store, redis, target=1).create()
    await writer.add_segments(3)
    text = await read_list(http, writer)
    assert "CAN-BLOCK-RELOAD" not in text
    due = asyncio.get_running_loop().time()
    for _ in range(5):
        due += 1
        await asyncio.sleep(max(0, due - asyncio.get_running_loop().time()))
        await writer.add_segments(1)
        await read_list(http, writer, f"?_HLS_msn={len(writer.segments) - 1}")
    assert "CAN-BLOCK-RELOAD=YES" in await read_list(http, writer)

    async def is_offered() -> bool:
        return "CAN-BLOCK-RELOAD=YES" in (await http.get(f"{replicas.two.url}{writer.path}/media.m3u8")).text

    await eventually_async(is_offered)


async def test_a_deleted_stream_is_not_there(http: httpx.AsyncClient, store: MediaStore, writer: LiveWriter) -> None:
    await writer.add_segments(4)
    await until_listed(http, writer)
    held = asyncio.create_task(http.get(f"{writer.path}/media.m3u8?_HLS_msn=4"))
    await store.live.delete_stream(writer.id)
    await writer.wake("ended", 5)
    assert (await held).status_code == 404
    assert (await http.get(f"{writer.path}/media.m3u8")).status_code == 404


async def test_a_stream_that_was_thrown_away_is_there_for_no_viewer(
    http: httpx.AsyncClient, store: MediaStore, writer: LiveWriter
) -> None:
    """Row 21: its record stays for a day, for its publisher."""
    await writer.add_segments(4)
    await until_listed(http, writer)
    held = asyncio.create_task(http.get(f"{writer.path}/media.m3u8?_HLS_msn=4"))
    await store.live.set_state(writer.id, writer.upload.fencing_token, "ended", DELETED)
    await writer.wake("ended", 5)
    assert (await held).status_code == 404
    for address in ("media.m3u8", "index.m3u8", "0/init.mp4", "0/1.m4s"):
        assert (await http.get(f"{writer.path}/{address}")).status_code == 404


async def test_segments_leave_with_their_file(http: httpx.AsyncClient, store: MediaStore, writer: LiveWriter) -> None:
    await writer.add_segments(4)
    info = await writer.end()
    await until_listed(http, writer)
    assert (await http.get(f"{writer.path}/0/1.m4s")).status_code == 200
    await store.uploads.delete(MediaName(info.folder, info.filename))

    async def has_gone() -> bool:
        return (await http.get(f"{writer.path}/0/1.m4s")).status_code == 404

    await eventually_async(has_gone)


async def test_viewers_are_counted_once_over_both_replicas(
    http: httpx.AsyncClient, replicas: Replicas, redis: RedisClient, store: MediaStore
) -> None:
    """Three viewers, one of whom is answered by both replicas; with targets of 1 s they are forgotten after some seconds."""
    writer = await LiveWriter(store, redis, target=1).create()
    await writer.add_segments(4)
    await until_listed(http, writer)
    pushed: list[dict[str, Any]] = []
    subscription = Subscription(
        redis,
        [topic_channel(f"live/{writer.id}")],
        lambda _channel, payload: pushed.append(json.loads(Wakeup.parse(payload).event)),
        name="test",
    )
    subscription.start()
    await eventually_async(lambda: subscription.subscribed)
    watching = True

    async def watch(agent: str, *bases: str) -> None:
        while watching:
            for base in bases:
                await http.get(f"{base}{writer.path}/media.m3u8", headers={"user-agent": agent})
            await asyncio.sleep(0.2)

    one, two = replicas.one.url, replicas.two.url
    viewers = [asyncio.create_task(watch(*args)) for args in (("a", one), ("b", two), ("c", one, two))]
    await eventually_async(lambda: any(event["data"]["viewers"] >= 3 for event in pushed))
    await asyncio.sleep(1.5)
    assert int(await redis.execute("GET", count_key(writer.id))) in {3, 4}  # the client of `until_listed` is the fourth
    watching = False
    await asyncio.gather(*viewers)
    await eventually_async(lambda: pushed[-1]["data"] == {"id": writer.id, "viewers": 0}, 15)
    assert {event["type"] for event in pushed} == {"live.viewers"}
    keys = await redis.execute("KEYS", f"gridcast:live:{writer.id}:*")
    assert min([await redis.execute("TTL", key) for key in keys]) > 0
    await subscription.aclose()
