"""AVIF and HEIF pictures: size, rotation and codec of the primary item (ISO/IEC 23008-12). Pure."""

from services.common.containers import codec_strings
from services.common.containers.boxes import Box, MalformedBoxes, find_box, iter_boxes, read_box
from services.common.containers.facts import FactsDraft

BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
MAX_META_BOX_BYTES = 255 * 1024
MAX_ASSOCIATIONS = 4096
_MAX_TOP_BOXES = 64


class HeifParser:
    """Reads `meta` as a whole: it comes before the pictures."""

    def __init__(self) -> None:
        self._draft = FactsDraft(kind="image")
        self._position = 0
        self._boxes = 0

    def parse(self, window: bytes, offset: int, *, is_end: bool) -> int | None:
        """As `ContainerParser.parse`."""
        end = offset + len(window)
        while self._boxes < _MAX_TOP_BOXES:
            if not offset <= self._position <= end:
                return None if is_end else self._position
            box = read_box(window, self._position, end, offset)
            if box is None or (box.type == b"meta" and box.end > end):
                return None if is_end else self._position
            self._boxes += 1
            if box.type == b"meta":
                if box.end - box.start <= MAX_META_BOX_BYTES:
                    self._read_meta(window, box.body - offset + 4, box.end - offset)
                return None
            self._position = box.end
        return None

    def draft(self, _length: int) -> FactsDraft:
        """Return what is known now."""
        return self._draft

    def _read_meta(self, window: bytes, start: int, end: int) -> None:
        primary = find_box(window, start, end, b"pitm")
        if primary is None:
            raise MalformedBoxes("no primary item")
        width = 2 if window[primary.body] == 0 else 4
        item = int.from_bytes(window[primary.body + 4 : primary.body + 4 + width], "big")
        container = find_box(window, start, end, b"iprp", b"ipco")
        if container is None:
            return
        properties = list(iter_boxes(window, container.body, container.end))
        association = find_box(window, start, end, b"iprp", b"ipma")
        own = _associations(window, association, item) if association is not None else []
        mine = [properties[index - 1] for index in own if 0 < index <= len(properties)]
        self._draft.rotation = 0
        for box in mine:
            self._read_property(window, box)
        # The primary item of a grid has no codec of its own.
        for box in [*mine, *properties]:
            if box.type in {b"av1C", b"hvcC"} and not self._draft.codecs:
                config = window[box.body : min(box.end, box.body + 64)]
                self._draft.add_codec(codec_strings.av1(config) if box.type == b"av1C" else codec_strings.hevc(config))

    def _read_property(self, window: bytes, box: Box) -> None:
        if box.type == b"ispe":
            width = int.from_bytes(window[box.body + 4 : box.body + 8], "big")
            self._draft.set_size(width, int.from_bytes(window[box.body + 8 : box.body + 12], "big"))
        elif box.type == b"irot":  # anti-clockwise, in steps of 90 degrees
            self._draft.rotation = -90 * (window[box.body] & 3) % 360


def _associations(window: bytes, box: Box, item: int) -> list[int]:
    """The numbers, from 1 on, of the properties of one item, in an `ipma` box."""
    version, wide = window[box.body], window[box.body + 3] & 1
    count = int.from_bytes(window[box.body + 4 : box.body + 8], "big")
    position, id_bytes, step = box.body + 8, 2 if version < 1 else 4, 1 + wide
    for _ in range(min(count, MAX_ASSOCIATIONS)):
        if position + id_bytes >= box.end:
            return []
        found = int.from_bytes(window[position : position + id_bytes], "big")
        entries = window[position + id_bytes]
        position += id_bytes + 1
        if found == item:
            mask = 0x7FFF if wide else 0x7F
            return [
                int.from_bytes(window[at : at + step], "big") & mask
                for at in range(position, min(position + entries * step, box.end), step)
            ]
        position += entries * step
    return []
