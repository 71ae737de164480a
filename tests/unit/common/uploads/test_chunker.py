"""services.common.uploads.chunker: bytes in pieces of any size, split into blocks of one size."""

import random
import tracemalloc

import pytest

from services.common.uploads.chunker import SMALL_PIECE, Chunker


@pytest.mark.parametrize("seed", range(50))
def test_chunks_preserve_every_byte(seed: int) -> None:
    dice = random.Random(seed)
    size = dice.randint(1, 9)
    blocks, data, taken = Chunker(size), b"", b""
    for _ in range(40):
        piece = dice.randbytes(dice.choice((0, 1, size - 1, size, size + 1, 5 * size)))
        blocks.feed(piece)
        data += piece
        if dice.random() < 0.3:
            some = blocks.pop_blocks(dice.randint(1, 3))
            assert {len(block) for block in some} <= {size}
            taken += b"".join(some)
        assert len(blocks) == len(data) - len(taken)
        assert taken + b"".join(blocks.complete_blocks) + blocks.tail == data
        assert len(blocks.tail) < size
    assert taken + b"".join(blocks.flush()) == data
    assert not blocks


def test_small_and_large_pieces_are_mixed() -> None:
    """Small ones are collected, large ones are kept as they are; a block of either is the bytes in their order."""
    dice = random.Random(1)
    pieces = [dice.randbytes(dice.choice((1, 3, SMALL_PIECE - 1, SMALL_PIECE, 3 * SMALL_PIECE))) for _ in range(300)]
    blocks = Chunker(10 * SMALL_PIECE)
    for piece in pieces:
        blocks.feed(piece)
    assert b"".join(blocks.flush()) == b"".join(pieces)


def test_emitted_chunks_are_not_modified_later() -> None:
    blocks = Chunker(3)
    blocks.feed(b"abcd")
    (first,) = blocks.pop_blocks(9)
    tail = blocks.tail
    blocks.feed(b"efghi")
    assert (first, tail) == (b"abc", b"d")
    assert blocks.flush() == [b"def", b"ghi"]


def test_many_small_pieces_take_little_memory() -> None:
    blocks = Chunker(256 * 1024)
    pieces = [bytes((number,)) for number in range(256)]
    tracemalloc.start()
    for number in range(200_000):
        blocks.feed(pieces[number % 256])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024 * 1024
    assert blocks.tail[:3] == b"\0\1\2"
