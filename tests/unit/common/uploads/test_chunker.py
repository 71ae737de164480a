"""services.common.uploads.chunker: bytes in pieces of any size, split into blocks of one size."""

import random

import pytest

from services.common.uploads.chunker import Chunker


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


def test_emitted_chunks_are_not_modified_later() -> None:
    """The buffer is reused for the next block."""
    blocks = Chunker(3)
    blocks.feed(b"abcd")
    (first,) = blocks.pop_blocks(9)
    tail = blocks.tail
    blocks.feed(b"efghi")
    assert (first, tail) == (b"abc", b"d")
    assert blocks.flush() == [b"def", b"ghi"]
