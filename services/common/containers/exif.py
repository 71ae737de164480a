"""The orientation in Exif (CIPA DC-008, 4.6.4). Pure."""

from collections.abc import Callable

MAX_ENTRIES = 256
_ORIENTATION = 0x0112
_ROTATIONS = {1: 0, 2: 0, 3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}


def read_rotation(tiff: bytes) -> int | None:
    """By how many degrees clockwise a picture is turned, None where it does not say. Mirrored pictures as if they were not."""
    order = {b"II*\x00": "little", b"MM\x00*": "big"}.get(tiff[:4])
    if order == "little":
        return _read(tiff, lambda at, size: int.from_bytes(tiff[at : at + size], "little"))
    if order == "big":
        return _read(tiff, lambda at, size: int.from_bytes(tiff[at : at + size], "big"))
    return None


def _read(tiff: bytes, number: Callable[[int, int], int]) -> int | None:
    directory = number(4, 4)
    for index in range(min(number(directory, 2), MAX_ENTRIES)):
        entry = directory + 2 + 12 * index
        if entry + 12 > len(tiff):
            return None
        if number(entry, 2) == _ORIENTATION:
            return _ROTATIONS.get(number(entry + 8, 2))
    return None
