"""Boxes by hand: sizes in each form, and every guard."""

import pytest

from services.common.containers.boxes import MAX_CHILDREN, Box, MalformedBoxes, find_box, iter_boxes, read_box


def box(box_type: bytes, body: bytes = b"") -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + box_type + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (box(b"free", bytes(4)), Box(b"free", 0, 8, 12)),
        (b"\0\0\0\1mdat" + (1 << 40).to_bytes(8, "big"), Box(b"mdat", 0, 16, 1 << 40)),
        (b"\0\0\0\0mdat" + bytes(8), Box(b"mdat", 0, 8, 999)),
        (b"\0\0\0\x1cuuid" + bytes(20), Box(b"uuid", 0, 24, 28)),
        (b"\0\0\0\x10mda", None),
        (b"\0\0\0\1mdat" + bytes(7), None),
    ],
)
def test_a_header_is_read_in_each_form(data: bytes, expected: Box | None) -> None:
    assert read_box(data, 0, 999) == expected


def test_positions_count_from_the_origin() -> None:
    assert read_box(b"xx" + box(b"free"), 1002, 5000, 1000) == Box(b"free", 1002, 1010, 1010)


@pytest.mark.parametrize("size", [2, 7])
def test_a_size_smaller_than_the_header_is_refused(size: int) -> None:
    with pytest.raises(MalformedBoxes, match=f"a box of {size} bytes"):
        read_box(size.to_bytes(4, "big") + b"free", 0, 999)


def test_children_fill_their_parent() -> None:
    data = box(b"aaaa", b"12") + box(b"bbbb") + bytes(4)
    assert [(found.type, data[found.body : found.end]) for found in iter_boxes(data, 0, len(data))] == [
        (b"aaaa", b"12"),
        (b"bbbb", b""),
    ]


def test_a_child_that_exceeds_its_parent_is_refused() -> None:
    with pytest.raises(MalformedBoxes, match="exceeds"):
        list(iter_boxes(box(b"aaaa", bytes(8)), 0, 12))


def test_the_number_of_children_is_bounded() -> None:
    data = box(b"free") * (MAX_CHILDREN + 1)
    with pytest.raises(MalformedBoxes, match="more than"):
        list(iter_boxes(data, 0, len(data)))


def test_a_path_is_followed() -> None:
    data = box(b"moov", box(b"udta", box(b"meta", b"1")) + box(b"trak", box(b"mdia")))
    found = find_box(data, 0, len(data), b"moov", b"trak", b"mdia")
    assert found is not None
    assert found.type == b"mdia"
    assert find_box(data, 0, len(data), b"moov", b"trak", b"edts") is None
