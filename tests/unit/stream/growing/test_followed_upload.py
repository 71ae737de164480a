"""A followed upload over a scripted store: what settles, who waits for how long, and how few questions are asked."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.asgi import ClientDisconnected
from services.common.errors import Gone, ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.common.store.limits import BLOCK_SIZE
from services.common.store.play_addresses import PlayAddress
from services.common.store.upload_playback import GrowingUpload, PlayedFile
from services.stream.block_cache import BlockCache
from services.stream.growing import followed_upload
from services.stream.growing.followed_upload import FollowedUpload, FollowedUploads, Starved
from services.stream.growing.growing_blocks import GrowingBlocks

pytestmark = pytest.mark.anyio
ADDRESS = PlayAddress("a" * 24, "b" * 24, "c" * 32)
DATA = bytes(range(256)) * (4 * BLOCK_SIZE // 256)
SETTLE, POLL = 0.05, 0.01


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times."""
    monkeypatch.setattr(followed_upload, "SETTLE_SECONDS", SETTLE)
    monkeypatch.setattr(followed_upload, "LOOK_SECONDS", POLL)
    monkeypatch.setattr(followed_upload, "WAIT_SECONDS", 0.3)


class ScriptedStore:
    """An `UploadPlayback` and a `BlockReader` whose state the test sets."""

    block_size = BLOCK_SIZE

    def __init__(self) -> None:
        self.state: GrowingUpload | PlayedFile | None = GrowingUpload("f", 0, len(DATA))
        self.questions = 0
        self.is_away = False
        self.reads = 0

    def grow(self, offset: int) -> None:
        self.state = GrowingUpload("f", offset, len(DATA))

    def commit(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self.state = PlayedFile(MediaInfo("i", "f", "", "n", len(DATA), "video/mp4", None, now, stored_etag='"e"'))

    async def find(self, address: PlayAddress) -> GrowingUpload | PlayedFile | None:
        assert address == ADDRESS
        self.questions += 1
        if self.is_away:
            raise ServiceUnavailable("away")
        return self.state

    async def read_blocks(self, upload: GrowingUpload | MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        if self.is_away:
            raise ServiceUnavailable("away")
        self.reads += 1
        if isinstance(upload, GrowingUpload):
            assert isinstance(self.state, PlayedFile) or last_block < self.state.whole_blocks  # type: ignore[union-attr]
        return [DATA[number * BLOCK_SIZE :][:BLOCK_SIZE] for number in range(first_block, last_block + 1)]

    async def read_tail(self, upload: GrowingUpload) -> bytes | None:
        if self.state != upload:
            return None
        return DATA[upload.offset - upload.tail_length : upload.offset]


def follow(store: ScriptedStore) -> FollowedUpload:
    return FollowedUpload(store, ADDRESS, BlockCache(GrowingBlocks(store), 1 << 24), BlockCache(store, 1 << 24))


def present() -> bool:
    return False


async def read_all(upload: FollowedUpload) -> bytes:
    """Read to the end."""
    received = b""
    while piece := await upload.read(len(received), present):
        received += bytes(piece)
    return received


async def test_players_read_all_while_it_grows_and_after_the_commit() -> None:
    store = ScriptedStore()
    upload = follow(store)
    with upload.play():
        reading = [asyncio.create_task(read_all(upload)) for _ in range(20)]
        for offset in (1000, BLOCK_SIZE, BLOCK_SIZE + 5, 2 * BLOCK_SIZE + 7, 3 * BLOCK_SIZE):
            store.grow(offset)
            await asyncio.sleep(SETTLE * 2)
        store.commit()
        assert await asyncio.gather(*reading) == [DATA] * 20
    assert store.questions < 100, "one reader of the state for all players"
    assert store.reads <= 12, "a block is read once"
    await upload.aclose()


async def test_an_offset_is_used_once_it_has_settled() -> None:
    store = ScriptedStore()
    upload = follow(store)
    store.grow(BLOCK_SIZE)
    with upload.play():
        await upload.look()
        assert upload.available == 0
        began = asyncio.get_running_loop().time()
        await upload.read(0, present)
        assert asyncio.get_running_loop().time() - began >= SETTLE / 2
        assert upload.available == BLOCK_SIZE
        store.grow(10)  # as a nameless upload looks for a moment while it gets its name
        await asyncio.sleep(SETTLE * 2)
        assert upload.available == BLOCK_SIZE
    await upload.aclose()


async def test_waiting_is_bounded_and_ends_with_the_upload_or_its_client() -> None:
    store = ScriptedStore()
    upload = follow(store)
    with upload.play():
        with pytest.raises(Starved):
            await upload.read(0, present)
        with pytest.raises(ClientDisconnected):
            await upload.read(0, lambda: True)
        waiting = asyncio.create_task(upload.read(0, present))
        await asyncio.sleep(POLL)
        store.state = None
        with pytest.raises(Gone):
            await waiting
        with pytest.raises(Gone):
            await upload.look()
    await upload.aclose()


async def test_a_store_that_is_away_for_a_moment_is_waited_for() -> None:
    store = ScriptedStore()
    upload = follow(store)
    with upload.play():
        await upload.look()
        store.is_away = True
        store.grow(BLOCK_SIZE)
        waiting = asyncio.create_task(upload.read(0, present))
        await asyncio.sleep(POLL * 5)
        assert not waiting.done()
        store.is_away = False
        assert bytes(await waiting) == DATA[:BLOCK_SIZE]
    await upload.aclose()


async def test_nobody_asks_where_nobody_plays() -> None:
    store = ScriptedStore()
    upload = follow(store)
    with upload.play():
        await upload.look()
    await asyncio.sleep(POLL * 5)
    asked = store.questions
    await asyncio.sleep(POLL * 10)
    assert store.questions == asked
    await upload.aclose()


async def test_a_copy_for_another_writer_is_read_from_then_on() -> None:
    """The files store continues in a copy where a paused process holds the file."""
    store = ScriptedStore()
    upload = follow(store)
    store.grow(BLOCK_SIZE)
    with upload.play():
        await upload.read(0, present)
        assert isinstance(store.state, GrowingUpload)
        store.state = replace(store.state, file_id="g")
        await asyncio.sleep(SETTLE * 2)
        assert upload.file_id == "g"
    await upload.aclose()


async def test_missing_blocks_are_an_error() -> None:
    class Damaged(ScriptedStore):
        async def read_blocks(self, *_: object) -> list[bytes]:
            raise CorruptFile("missing")

    store = Damaged()
    upload = follow(store)
    store.grow(BLOCK_SIZE)
    with upload.play(), pytest.raises(CorruptFile):
        await upload.read(0, present)
    await upload.aclose()


async def test_blocks_that_are_deleted_with_their_upload_are_its_end() -> None:
    class Deleted(ScriptedStore):
        async def read_blocks(self, *_: object) -> list[bytes]:
            self.state = None
            raise CorruptFile("missing")

    store = Deleted()
    upload = follow(store)
    store.grow(BLOCK_SIZE)
    with upload.play(), pytest.raises(Gone):
        await upload.read(0, present)
    await upload.aclose()


async def test_players_and_uploads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_upload, "MAX_FOLLOWED_UPLOADS", 2)
    monkeypatch.setattr(followed_upload, "MAX_PLAYERS_PER_UPLOAD", 2)
    monkeypatch.setattr(followed_upload, "MAX_PLAYERS", 3)
    store = ScriptedStore()
    uploads = FollowedUploads(store, BlockCache(GrowingBlocks(store), 1 << 24), BlockCache(store, 1 << 24))
    other, third = ADDRESS._replace(tag="d"), ADDRESS._replace(tag="e")
    with uploads.play(ADDRESS), uploads.play(ADDRESS):
        with pytest.raises(ServiceUnavailable), uploads.play(ADDRESS):
            pass
        with uploads.play(other):
            with pytest.raises(ServiceUnavailable), uploads.play(other):
                pass
            with pytest.raises(ServiceUnavailable), uploads.play(third):
                pass
        with uploads.play(third):  # the other one has no player and makes room
            pass
    assert uploads.players == 0
    await uploads.aclose()
