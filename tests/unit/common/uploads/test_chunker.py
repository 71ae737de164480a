"""services.common.uploads.chunker: bytes in pieces of any size, split into blocks of one size."""

import random

import pytest

from services.common.uploads.chunker import SMALL_PIECE_BYTES, Chunker


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("sizes", [(1, 9), (SMALL_PIECE_BYTES // 2, 3 * SMALL_PIECE_BYTES)], ids=["small", "large"])
def test_chunks_preserve_every_byte(seed: int, sizes: tuple[int, int]) -> None:
    """Of pieces that are collected in a buffer, and of those that are kept as they came."""
    dice = random.Random(seed)
    size = dice.randint(*sizes)
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
    """The buffer of small pieces grows with the next ones."""
    blocks = Chunker(3)
    blocks.feed(b"abcd")
    (first,) = blocks.pop_blocks(9)
    tail = blocks.tail
    blocks.feed(b"efghi")
    assert (first, tail) == (b"abc", b"d")
    assert blocks.flush() == [b"def", b"ghi"]


def test_small_pieces_take_no_memory_of_their_own() -> None:
    """A client that sends single bytes, alone or between large pieces, makes no list of a hundred thousand pieces."""
    size = 255 * 1024
    for pieces in ([b"x"] * (size - 1), [b"x" * SMALL_PIECE_BYTES, b"x"] * 62):
        blocks = Chunker(size)
        for piece in pieces:
            blocks.feed(piece)
        assert len(blocks._pieces) <= 2 * (size // SMALL_PIECE_BYTES + 1)
        assert blocks.tail == b"".join(pieces)


def test_a_short_rest_of_a_large_piece_does_not_keep_it() -> None:
    piece = bytearray(10 * SMALL_PIECE_BYTES)
    blocks = Chunker(len(piece) - 1)
    blocks.feed(piece)  # type: ignore[arg-type]
    piece.extend(b"x")  # a bytearray that a view refers to cannot grow
    assert blocks.tail == b"\0"
