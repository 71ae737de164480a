"""A process that takes a stream is killed at each step of a change of its file: nothing that was acknowledged is lost."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.asgi import Message
from services.common.media import MediaName
from services.common.settings import StoreSettings
from services.common.store.limits import BLOCK_SIZE
from services.common.uploads.body import UploadBody
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor
from services.common.uploads.locks import UploadLocks
from services.live import receiving
from services.live.intake import IntakeRules
from services.live.live_streams import WantedStream
from services.live.receiving import LiveReceiver
from services.live.recordings import Recordings
from services.live.stream_ending import StreamEnder, numbered_name
from services.live.stream_writer import LiveStores
from services.live.tus_requests import TusRequest
from tests.integration.test_live_ending import Recorded, Service
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import media_of
from tests.support.opened_stores import opened_store, with_stores

pytestmark = pytest.mark.anyio
BOTH = with_stores(("gridfs-motor",), ("files-sqlite",))

FIRST = init() + fragment(0, 2) + fragment(2, 2, fill=300_000)
OBJECTS = (init(size=(90, 160)), fragment(0, 2), fragment(2, 2, fill=200))
SECOND = b"".join(OBJECTS)
MAX_STEPS = 200


class Killed(Exception):
    """Ends a process after a call of its store."""


class Life:
    """How many calls of the store a process still makes; None for any number."""

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps
        self.calls: list[str] = []

    def check(self) -> None:
        if self.steps is not None and self.steps <= 0:
            raise Killed

    def take_step(self, name: str) -> None:
        self.calls.append(name)
        if self.steps is not None:
            self.steps -= 1
            self.check()


class Mortal:
    """One side of a store, as a process with a life uses it: the call that ends it has happened."""

    def __init__(self, side: Any, life: Life) -> None:
        self._side = side
        self._life = life

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._side, name)
        if not inspect.iscoroutinefunction(member):
            return member

        async def call(*given: Any, **named: Any) -> Any:
            self._life.check()
            result = await member(*given, **named)
            self._life.take_step(name)
            return result

        return call


class Process:
    """The receiver of one process."""

    def __init__(self, service: Service, steps: int | None = None) -> None:
        self.life = Life(steps)
        self.recorded = Recorded()
        events: Any = self.recorded
        sides: list[Any] = [Mortal(getattr(service.stores, name), self.life) for name in LiveStores.__slots__]
        stores, locks = LiveStores(*sides), UploadLocks()
        self.ender = StreamEnder(stores, locks, events, self.recorded.publish_file, lambda _: None)
        self.receiver = LiveReceiver(
            stores,
            locks,
            events,
            self.ender,
            Recordings(stores, self.ender),
            DiskSpaceMonitor(0, lambda _: None),
            CleanupRunner(),
            IntakeRules(5.0),
            asyncio.Event(),
        )

    async def patch(self, stream_id: str, offset: int, data: bytes, length: int | None = None) -> int:
        stream = await self.ender.read(stream_id)
        return await self.receiver.receive_tus(stream, body_of(data), TusRequest(offset, length, None), None)

    async def put(self, stream_id: str, data: bytes) -> None:
        await self.receiver.receive_object(await self.ender.read(stream_id), body_of(data), None)


def body_of(data: bytes) -> UploadBody:
    pieces: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return pieces.pop()

    return UploadBody(receive, 0, 30.0)


@pytest.fixture
async def service(stores: list[StoreSettings], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(receiving, "TURN_WAIT_SECONDS", 0.0)  # a writer that was killed is not waited for
    async with opened_store(stores[0]) as store:
        yield Service(store)


async def make(service: Service, name: MediaName) -> str:
    stream, _ = await service.streams.create(WantedStream(name, "", None, False, 60.0, 2), "", "")
    return stream.new.id


async def check_files(service: Service, stream_id: str, name: MediaName) -> None:
    """Both files are what was sent, the stream has ended with the second one, and there is no third one."""
    stream = await service.ender.get(stream_id)
    described = await service.streams.describe(stream)
    names = [name, numbered_name(name, 2)]
    assert [file["filename"] for file in described["files"]] == [one.filename for one in names]
    assert (described["state"], described["segments"], described["duration"]) == ("ended", 4, 8)
    for one, sent in zip(names, (FIRST, SECOND), strict=True):
        file = await service.store.reader.find(one)
        assert file is not None
        blocks = await service.store.reader.read_blocks(file, 0, (file.length - 1) // BLOCK_SIZE)
        assert b"".join(blocks)[BLOCK_SIZE:] == media_of(sent)
    assert await service.store.reader.find(numbered_name(name, 3)) is None
    segments = await service.store.live.read_segments(stream_id, 0)
    assert [(one.number, one.epoch) for one in segments] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [epoch.number for epoch in stream.epochs] == [0, 1]
    assert stream.epochs[1].date >= stream.epochs[0].date + 4


@BOTH
@pytest.mark.parametrize("way", ["tus", "objects"])
@pytest.mark.parametrize("ends", [False, True])
async def test_whoever_comes_next_finishes_a_change(service: Service, way: str, ends: bool) -> None:
    """Row 12: a process is killed at each step of a change of files, and the next request finishes the change.

    With `ends` the publisher sends no more, and the stream is ended by request from what the store has.
    """
    steps = 0
    while True:
        name = MediaName("talks", f"talk {steps}.mp4")
        stream_id = await make(service, name)
        before, dying, after = Process(service), Process(service, steps), Process(service)
        if way == "tus":
            assert await before.patch(stream_id, 0, FIRST) == len(FIRST)
        else:
            await before.put(stream_id, FIRST)
        try:
            if way == "tus":
                await dying.patch(stream_id, len(FIRST), SECOND[: len(OBJECTS[0]) + 10])
            else:
                await dying.put(stream_id, OBJECTS[0])
            was_killed = False
        except Killed:
            was_killed = True
        assert "begin_recording" in dying.life.calls or was_killed
        if ends:
            stream = await after.ender.end(stream_id, "ended")
            assert (stream.state, stream.position.last_segment, len(stream.files)) == ("ended", 1, 1)
            file = await service.store.reader.find(name)
            assert file is not None
            assert file.length == stream.position.offset
        elif way == "tus":
            offset, _ = await after.receiver.tus_offset(await after.ender.read(stream_id), None)
            assert offset >= len(FIRST)
            length = len(FIRST) + len(SECOND)
            assert await after.patch(stream_id, offset, (FIRST + SECOND)[offset:], length) == length
        else:
            for piece in OBJECTS:
                await after.put(stream_id, piece)
            await after.ender.end(stream_id, "ended")
        if not ends:
            await check_files(service, stream_id, name)
        if not was_killed:
            break
        steps += 1
        assert steps < MAX_STEPS
    assert steps > 10
