"""How streams end: by silence, by their limits, after a crash between two steps; and what is published."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common.errors import AlreadyExists, Forbidden, NotFound, Unauthorized
from services.common.media import MediaInfo, MediaName
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.limits import BLOCK_SIZE
from services.common.store.upload_store import NewUpload, OutboxEvent, StoredFile, UploadHandle
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.locks import UploadLocks
from services.live.idle_streams import IdleStreams
from services.live.live_streams import LiveStreams, WantedStream
from services.live.paced_rehash import PacedRehash
from services.live.publish_token import check_token
from services.live.session import Session
from services.live.stream_ending import StreamEnder, numbered_name
from services.live.stream_limits import StreamLimits
from services.live.stream_writer import LiveStores, StreamWriter
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import media_of
from tests.support.opened_stores import opened_store, with_stores
from tests.support.store_inspectors import open_settings_inspector

pytestmark = pytest.mark.anyio
BOTH = with_stores(("gridfs-motor",), ("files-sqlite",))
NAME = MediaName("talks", "talk.mp4")


class Recorded:
    """Publications in place of those of Redis."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.wake_ups: list[str] = []
        self.files: list[str] = []
        self.received: list[tuple[int, int]] = []

    def wake_readers(self, stream_id: str, last_segment: int, state: str) -> None:
        del stream_id, last_segment
        self.wake_ups.append(state)

    def publish(self, stream_id: str, type: str, data: dict[str, Any]) -> None:  # noqa: A002
        del stream_id
        self.events.append((type, data))

    def tell_publisher(self, sid: str | None, stream_id: str, received: int, last_segment: int) -> None:
        del sid, stream_id
        self.received.append((received, last_segment))

    async def publish_file(self, event: OutboxEvent) -> bool:
        self.files.append(event.info.filename)
        return True

    @property
    def types(self) -> list[str]:
        return [kind for kind, _ in self.events]


class Service:
    """The parts of a live service over one store."""

    def __init__(self, store: MediaStore) -> None:
        self.store = store
        self.recorded = Recorded()
        events: Any = self.recorded
        self.hashed: list[MediaInfo] = []
        self.stores = LiveStores(store.uploads, store.live, store.growing, store.reader)
        self.ender = StreamEnder(self.stores, UploadLocks(), events, self.recorded.publish_file, self.hashed.append)
        self.idle = IdleStreams(store.live, self.ender, events, 0.2, 1.0)

        async def count(stream_id: str) -> int | None:
            return len(stream_id)

        limits = StreamLimits(1 << 34, 86400.0)
        self.streams = LiveStreams(self.stores, CleanupRunner(), limits, 3600.0, 0, count)

    async def make(self, grace: float = 60.0) -> str:
        wanted = WantedStream(NAME, "", None, takeover=False, grace=grace, target=2)
        stream, _ = await self.streams.create(wanted, "alice", "")
        return stream.new.id

    async def write(self, stream_id: str, data: bytes) -> StreamWriter:
        writer = await StreamWriter.open(self.stores, await self.ender.get(stream_id), "tus/1", lambda _: None)
        await writer.take(writer.session.feed(data, 0.0))
        await writer.flush()
        return writer


@pytest.fixture
async def service(stores: list[StoreSettings]) -> AsyncIterator[Service]:
    async with opened_store(stores[0]) as store:
        yield Service(store)


MEDIA = init() + fragment(0, 1) + fragment(1, 1) + fragment(2, 1)


@BOTH
async def test_silence_interrupts_once_and_ends_after_the_grace(service: Service) -> None:
    stream_id = await service.make(grace=0.3)
    await (await service.write(stream_id, MEDIA)).close()
    while (await service.ender.get(stream_id)).state != "ended":
        await service.idle.run_once()
    assert service.recorded.types == ["live.interrupted", "live.ended"]
    ended = service.recorded.events[1][1]
    assert (ended["reason"], ended["file"]["filename"]) == ("interrupted", "talk.mp4")
    assert service.recorded.files == ["talk.mp4"]
    assert [info.sha256 for info in service.hashed] == [None]
    file = await service.store.reader.find(NAME)
    assert file is not None
    assert (file.content_type, file.owner, file.length) == ("video/mp4", "alice", ended["file"]["length"])
    described = await service.streams.describe(await service.ender.get(stream_id))
    assert (described["segments"], described["duration"], described["reason"]) == (2, 3, "interrupted")


@BOTH
@pytest.mark.parametrize("step", ["nothing", "last block", "header", "commit"])
async def test_any_process_goes_on_with_an_end_that_was_begun(service: Service, step: str) -> None:
    """Rows 38 and 39."""
    stream_id = await service.make()
    writer = await service.write(stream_id, MEDIA)
    if step != "nothing":
        await writer.take(writer.session.end())
        await writer.flush()
        await writer.write_last_block()
    if step in {"header", "commit"}:
        await service.store.growing.place_header(writer.upload, bytes(BLOCK_SIZE))  # another one than the next writer's
    if step == "commit":
        length = writer.stored_position.offset
        await service.store.uploads.commit(writer.upload, StoredFile(length, "video/mp4", None, '"x"'))
    await writer.close()
    other = Service(service.store)
    stream = await other.ender.end(stream_id, "ended")
    assert (stream.state, stream.revision) == ("ended", 1)
    assert other.recorded.types == ["live.ended"]
    file = await service.store.reader.find(NAME)
    assert file is not None
    blocks = await service.store.reader.read_blocks(file, 0, (file.length - 1) // BLOCK_SIZE)
    data = b"".join(blocks)
    session = Session(2, (await other.ender.get(stream_id)).position, None, b"")
    assert session.position.offset == len(data)
    assert data[BLOCK_SIZE:] == media_of(MEDIA), "never truncated"
    if step != "commit":
        assert data[4:8] == b"ftyp"
        assert b"sidx" in data[:BLOCK_SIZE]
    assert (await other.ender.end(stream_id, "again")).reason == "ended"
    assert other.recorded.types == ["live.ended"]


@BOTH
async def test_streams_of_one_name_that_are_made_at_the_same_time(service: Service) -> None:
    """One of them is there then, and nothing of the others."""
    made = await asyncio.gather(*(service.make() for _ in range(8)), return_exceptions=True)
    (stream_id,) = (one for one in made if isinstance(one, str))
    assert sum(isinstance(one, AlreadyExists) for one in made) == 7
    assert [stream.new.id for stream in await service.store.live.list_streams()] == [stream_id]
    assert (await service.ender.end(stream_id, "ended")).state == "ended"
    assert await service.make() != stream_id, "the name is free"


@BOTH
async def test_ends_at_the_same_time_are_one(service: Service) -> None:
    """Four requests at each of two replicas are answered with the file, none with 409."""
    other = Service(service.store)
    stream_id = await service.make()
    await (await service.write(stream_id, MEDIA)).close()
    ended = await asyncio.gather(*(one.ender.end(stream_id, "ended") for one in [service] * 4 + [other] * 4))
    assert {stream.state for stream in ended} == {"ended"}
    assert service.recorded.types + other.recorded.types == ["live.ended"]
    assert service.recorded.files + other.recorded.files == ["talk.mp4"]
    assert service.ender._endings == {}


@BOTH
async def test_who_gives_up_waiting_for_an_end_leaves_nothing(service: Service) -> None:
    stream_id = await service.make()
    await (await service.write(stream_id, MEDIA)).close()
    ending = asyncio.create_task(service.ender.end(stream_id, "ended"))
    await asyncio.sleep(0)
    ending.cancel()
    assert (await service.ender.end(stream_id, "again")).state == "ended"
    assert service.ender._endings == {}


@BOTH
async def test_another_file_of_that_name_leaves_a_numbered_one(service: Service) -> None:
    """Row 20."""
    stream_id = await service.make()
    await (await service.write(stream_id, MEDIA)).close()
    upload = await service.store.uploads.create_upload(NAME, NewUpload(1))
    await service.store.uploads.write_blocks(upload, 0, [b"x"])
    await service.store.uploads.commit(upload, StoredFile(1, "video/mp4", hashlib.sha256(b"x").hexdigest()))
    assert (await service.ender.end(stream_id, "ended")).state == "ended"
    assert service.recorded.events[-1][1]["file"]["filename"] == "talk (2).mp4"
    file = await service.store.reader.find(MediaName("talks", "talk (2).mp4"))
    assert file is not None
    assert file.length == (await service.ender.get(stream_id)).position.offset


class Killed(Exception):
    """Ends a process between two steps."""


async def take_name(service: Service) -> None:
    """Another file gets the name of the stream."""
    upload = await service.store.uploads.create_upload(NAME, NewUpload(1))
    await service.store.uploads.write_blocks(upload, 0, [b"x"])
    await service.store.uploads.commit(upload, StoredFile(1, "video/mp4", hashlib.sha256(b"x").hexdigest()))


@BOTH
@pytest.mark.parametrize("takes_second", [False, True])
async def test_a_recording_that_was_renamed_and_not_committed_is_found(
    service: Service, monkeypatch: pytest.MonkeyPatch, takes_second: bool
) -> None:
    """Row 20: a process is killed between the two steps. It has a day more than the grace to be found."""
    stream_id = await service.make()
    await (await service.write(stream_id, MEDIA)).close()
    await take_name(service)
    commit = service.store.uploads.commit

    async def die(upload: UploadHandle, *given: Any, **named: Any) -> OutboxEvent:
        if upload.name != NAME:
            raise Killed
        return await commit(upload, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(service.store.uploads, "commit", die)
        with pytest.raises(Killed):
            await service.ender.end(stream_id, "ended")
    if takes_second:
        second = numbered_name(NAME, 2)
        upload = await service.store.uploads.create_upload(second, NewUpload(1))
        await service.store.uploads.write_blocks(upload, 0, [b"x"])
        await service.store.uploads.commit(upload, StoredFile(1, "video/mp4", hashlib.sha256(b"x").hexdigest()))
    renamed = await service.store.live.find_upload(
        await service.ender.get(stream_id), [numbered_name(NAME, number) for number in (2, 3)]
    )
    assert renamed is not None
    acquired = await service.store.uploads.acquire(renamed)
    assert isinstance(acquired, tuple)
    await service.store.uploads.release_lease(acquired[0])
    assert acquired[1].expires_at - datetime.now(UTC) > timedelta(hours=23)

    other = Service(service.store)
    assert (await other.ender.end(stream_id, "ended")).state == "ended"
    expected = f"talk ({3 if takes_second else 2}).mp4"
    assert other.recorded.files == [expected]
    assert other.recorded.events[-1][1]["file"]["filename"] == expected
    file = await service.store.reader.find(MediaName("talks", expected))
    assert file is not None
    data = b"".join(await service.store.reader.read_blocks(file, 0, (file.length - 1) // BLOCK_SIZE))
    assert data[BLOCK_SIZE:] == media_of(MEDIA)


@BOTH
async def test_a_stream_that_is_thrown_away_is_there_for_its_publisher_alone(
    service: Service, stores: list[StoreSettings]
) -> None:
    """Row 21: its blocks leave at once."""
    stream_id = await service.make()
    writer = await service.write(stream_id, init() + b"".join(fragment(at, 1, fill=BLOCK_SIZE) for at in range(4)))
    await writer.close()
    with open_settings_inspector(stores[0]) as inspector:
        assert inspector.count_chunks() > 4
        await service.ender.delete(stream_id)
        assert inspector.count_chunks() == 0
        assert inspector.count_live()[1] == 0, "nor a segment or an epoch"
    assert (await service.ender.read(stream_id)).was_deleted
    for call in (service.ender.get, service.ender.delete):
        with pytest.raises(NotFound):
            await call(stream_id)
    assert await service.streams.list(("ended",), None, "", 10) == ([], None)
    assert await service.store.uploads.get_info(writer.stream.new.upload_id) is None
    assert service.recorded.events[-1] == ("live.ended", {"reason": "deleted", "file": None, "files": []})
    assert (await service.make()) != stream_id  # the name is free


@BOTH
async def test_what_a_writer_holds_is_bounded(service: Service) -> None:
    """Row 35: one fragment and 2 MiB of blocks, though nothing is made visible and the fragments come in pieces."""
    stream_id = await service.make()
    writer = await StreamWriter.open(service.stores, await service.ender.get(stream_id), "tus/1", lambda _: None)
    await writer.take(writer.session.feed(init(), 0.0))
    for at in range(8):
        media = fragment(at, 1, fill=400_000)
        for start in range(0, len(media), 65536):
            await writer.take(writer.session.feed(media[start : start + 65536], 0.0))
            assert writer.session.held_bytes <= len(media)
            assert len(writer._chunker) <= 8 * BLOCK_SIZE
        assert writer.session.held_bytes == 0
    await writer.close()


@BOTH
async def test_a_recording_gets_its_digest_later(service: Service) -> None:
    stream_id = await service.make()
    await (await service.write(stream_id, MEDIA)).close()
    await service.ender.end(stream_id, "ended")
    (info,) = service.hashed
    announced: list[str] = []

    async def announce(folder: str, filename: str) -> None:
        announced.append(f"{folder}/{filename}")

    rehash = PacedRehash(service.store.reader, service.store.growing, service.store.live, announce)
    assert await rehash.rehash(info)
    found = await service.store.reader.find(NAME)
    assert found is not None
    data = b"".join(await service.store.reader.read_blocks(found, 0, (found.length - 1) // BLOCK_SIZE))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert (found.etag, found.revision) == (info.etag, info.revision)
    assert announced == ["talks/talk.mp4"]
    assert not await rehash.rehash(info)


@BOTH
@pytest.mark.parametrize("sent", [b"", init(), init() + fragment(0, 2)[:-1]], ids=["nothing", "init", "no fragment"])
async def test_a_stream_that_never_starts_ends_without_a_file(service: Service, sent: bytes) -> None:
    """Row 22."""
    stream_id = await service.make()
    if sent:
        await (await service.write(stream_id, sent)).close()
    idle = IdleStreams(service.store.live, service.ender, service.ender._events, 0.2, 1.0)
    idle._waiting = 0.0
    await idle.run_once()
    stream = await service.ender.get(stream_id)
    assert (stream.state, stream.reason, stream.revision) == ("ended", "never started", None)
    assert service.recorded.events == [("live.ended", {"reason": "never started", "file": None, "files": []})]
    assert await service.store.reader.find(NAME) is None
    assert await service.make()


@pytest.mark.parametrize("token", ["", None, "wrong"])
def test_tokens_are_refused_alike(token: str | None) -> None:
    now = datetime.now(UTC)
    digest = hashlib.sha256(b"right").hexdigest()
    with pytest.raises((Unauthorized, Forbidden)):
        check_token(token, digest, now + timedelta(seconds=1), now)
    check_token("right", digest, now + timedelta(seconds=1), now)
    with pytest.raises(Forbidden, match="not valid"):
        check_token("right", digest, now, now)


def test_a_numbered_name_stays_a_name() -> None:
    assert numbered_name(MediaName("", "a.mp4"), 2).filename == "a (2).mp4"
    assert numbered_name(MediaName("", "a"), 3).filename == "a (3)"
    assert len(numbered_name(MediaName("", f"{'é' * 125}.mp4"), 2).filename.encode()) <= 255
