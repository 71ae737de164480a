"""The blocks that facts on demand are read from: few, once, and none for files that have them."""

import asyncio
from datetime import UTC, datetime

import pytest

from services.common.errors import ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.stream.block_cache import BlockCache
from services.stream.media_facts import MAX_FACTS_ENTRIES, MediaFactsReader
from tests.support.sizes import CHUNK_SIZE, MIB

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x1e\0\0\0\x14" + bytes(9)
PNG_FACTS = '{"kind":"image","duration":null,"width":30,"height":20,"codecs":[],"rotation":0,"tags":{}}'


class BlockStore:
    """The blocks of one content under any id."""

    block_size = CHUNK_SIZE

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read: list[int] = []
        self.error: Exception | None = None

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        del info
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.read += range(first_block, last_block + 1)
        return [self.content[n * CHUNK_SIZE : (n + 1) * CHUNK_SIZE] for n in range(first_block, last_block + 1)]


def make_info(content: bytes, file_id: str = "f", facts: str | None = None) -> MediaInfo:
    now = datetime.now(UTC)
    return MediaInfo("m", file_id, "", "n", len(content), "a/b", "00", now, media_facts_json=facts)


def make_reader(content: bytes) -> tuple[BlockStore, MediaFactsReader]:
    store = BlockStore(content)
    return store, MediaFactsReader(BlockCache(store, 8 * MIB))


def ogg_page(serial: int, position: int, flags: int, body: bytes) -> bytes:
    head = b"OggS\0" + bytes([flags]) + position.to_bytes(8, "little") + serial.to_bytes(4, "little") + bytes(8)
    return head + bytes([1, len(body)]) + body


def box(box_type: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return (8 + len(body)).to_bytes(4, "big") + box_type + body


MVHD = box(b"mvhd", bytes(12), (1000).to_bytes(4, "big"), (5000).to_bytes(4, "big"), bytes(80))
OPUS = ogg_page(1, 0, 2, b"OpusHead\1\1\0\0" + bytes(7)) + ogg_page(1, 0, 0, b"OpusTags" + bytes(8))


async def test_stored_facts_are_returned_and_nothing_is_read() -> None:
    store, reader = make_reader(PNG)
    assert await reader.get_json(make_info(PNG, facts="null")) == "null"
    assert store.read == []


async def test_concurrent_callers_share_one_read_and_later_ones_need_none() -> None:
    store, reader = make_reader(PNG)
    assert await asyncio.gather(*(reader.get_json(make_info(PNG)) for _ in range(5))) == [PNG_FACTS] * 5
    assert await reader.get_json(make_info(PNG)) == PNG_FACTS
    assert store.read == [0]


@pytest.mark.parametrize(
    ("content", "blocks"),
    [
        (b"", []),
        (b"text" * CHUNK_SIZE, [0]),
        (PNG + bytes(20 * CHUNK_SIZE), [0]),
        (OPUS + bytes(20 * CHUNK_SIZE), [0, 19, 20]),
        (OPUS + bytes(CHUNK_SIZE), [0, 1]),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(9 * CHUNK_SIZE + 99)) + box(b"moov", MVHD), [0, 9]),
        (
            box(b"ftyp", b"isom") + box(b"mdat", bytes(9 * CHUNK_SIZE)) + box(b"moov", MVHD, bytes(3 * CHUNK_SIZE)),
            [0, 9, 10],
        ),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(9 * CHUNK_SIZE))[:-99], [0]),
    ],
    ids=["empty", "text", "png", "ogg", "ogg of two blocks", "moov last", "a long moov last", "no moov"],
)
async def test_at_most_three_blocks_are_read(content: bytes, blocks: list[int]) -> None:
    store, reader = make_reader(content)
    assert await reader.get_json(make_info(content)) is not None
    assert sorted(store.read) == blocks


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), CorruptFile("chunk 0")])
async def test_an_error_is_none_and_not_kept(error: Exception) -> None:
    store, reader = make_reader(PNG)
    store.error = error
    assert await reader.get_json(make_info(PNG)) is None
    store.error = None
    assert await reader.get_json(make_info(PNG)) == PNG_FACTS


async def test_the_number_of_entries_is_bounded() -> None:
    store, reader = make_reader(PNG)
    for number in range(MAX_FACTS_ENTRIES + 1):
        await reader.get_json(make_info(PNG, str(number)))
    assert len(reader._known) == MAX_FACTS_ENTRIES
    before = len(store.read)
    await reader.get_json(make_info(PNG, str(MAX_FACTS_ENTRIES)))
    assert len(store.read) == before
