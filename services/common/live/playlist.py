"""Media playlists of HLS (draft-pantos-hls-rfc8216bis), rendered as the list grows. Pure.

A list that begins with the first segment is an EVENT playlist: lines are only appended, so that its text and its compressed form
are kept and each update costs one segment. A window is a sliding list; what has left it stays loadable.
"""

import datetime as dt
import math
import zlib
from array import array
from collections.abc import Sequence
from typing import Literal

from services.common.live.segment_table import SegmentTable
from services.common.live.segments import Epoch, Segment

HLS_VERSION = 9
"""The highest version of a tag in use: EXT-X-SKIP (section 7 of the draft)."""
SKIP_TARGETS = 6
"""CAN-SKIP-UNTIL in target durations: the least that is allowed."""
LEAST_TARGETS = 3
"""A list without its end has at least the length of this number of target durations."""
DATE_SECONDS = 60
"""A date is repeated so often: players interpolate."""
_GZIP_WINDOW_BITS = 31

Kind = Literal["event", "vod"]


class Playlist:
    """The list of one stream, which grows by `append`. `prefix` precedes each address.

    `kind` vod is for a stream that has ended before its list was asked for.
    """

    def __init__(self, target: int, prefix: str = "", kind: Kind = "event") -> None:
        self.target = target
        self.kind = kind
        self.ended = kind == "vod"
        self.can_block_reload = False
        self._prefix = prefix
        self._epochs: dict[int, Epoch] = {}
        self._segments = SegmentTable()
        self._lines = bytearray()
        self._begins = array("I")
        """Where in `_lines` those of each segment begin."""
        self._dated = -math.inf
        self._duration = 0.0
        self._compressed = b""
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WINDOW_BITS)
        self._compressed_length = 0
        self._compressed_head = ""

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments in order; the number of each is its place."""
        return self._segments

    @property
    def last_number(self) -> int:
        """Media sequence number of the last segment, -1 where there is none."""
        return len(self._segments) - 1

    @property
    def duration(self) -> float:
        """Seconds of all segments."""
        return self._duration

    @property
    def is_listable(self) -> bool:
        """Whether the list is long enough to be shown (section 6.2.2 of the draft)."""
        return bool(self._segments) and (self.ended or self._duration >= LEAST_TARGETS * self.target)

    def add_epoch(self, epoch: Epoch) -> None:
        """Say what the segments of an epoch need."""
        self._epochs[epoch.number] = epoch

    def append(self, segment: Segment) -> None:
        """Append the next segment. Raises ValueError for another number than the next."""
        is_first = not self._segments
        first_of_epoch = is_first or self._segments[-1].epoch != segment.epoch
        self._segments.append(segment)
        lines = []
        if first_of_epoch and not is_first:
            lines.append("#EXT-X-DISCONTINUITY")
        if first_of_epoch:
            lines.append(self._map_line(segment.epoch))
        if first_of_epoch or segment.date - self._dated >= DATE_SECONDS:
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{format_date(segment.date)}")
            self._dated = segment.date
        lines.append(f"#EXTINF:{segment.seconds:.5f},")
        lines.append(f"{self._prefix}{segment.epoch}/{segment.number}.m4s")
        self._begins.append(len(self._lines))
        self._lines += "".join(f"{line}\n" for line in lines).encode("ascii")
        self._duration += segment.seconds

    def end(self) -> None:
        """No segment comes any more."""
        self.ended = True

    def render(self) -> str:
        """Return the whole list."""
        return self._head() + self._lines.decode("ascii") + self._tail()

    def render_gzip(self) -> bytes:
        """Return the whole list as gzip (RFC 1952): only what came since the last call is compressed."""
        head = self._head()
        if head != self._compressed_head:  # once: reloads became blocking
            self._compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WINDOW_BITS)
            self._compressed_head, self._compressed_length = head, 0
            self._compressed = self._compressor.compress(head.encode())
        self._compressed += self._compressor.compress(self._lines[self._compressed_length :])
        self._compressed_length = len(self._lines)
        ending = self._compressor.copy()
        return self._compressed + ending.compress(self._tail().encode()) + ending.flush()

    def render_delta(self) -> str:
        """Return a delta update (section 6.2.5.1 of the draft), the whole list where nothing can be skipped or it has ended."""
        skipped = 0 if self.ended else self._index_from_end(SKIP_TARGETS * self.target)
        if not skipped:
            return self.render()
        return self._head() + f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n" + self._lines_from(skipped)

    def render_window(self, seconds: float) -> str:
        """Return a sliding list of the last `seconds`, at least what a list must have."""
        first = self._index_from_end(max(seconds, LEAST_TARGETS * self.target))
        segment = self._segments[first] if self._segments else None
        discontinuities = segment.epoch - self._segments[0].epoch if segment else 0
        lead = f"#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities}\n"
        if segment is None:
            return self._head(lead) + self._tail()
        begin = f"{self._map_line(segment.epoch)}\n#EXT-X-PROGRAM-DATE-TIME:{format_date(segment.date)}\n"
        first_lines = f"#EXTINF:{segment.seconds:.5f},\n{self._prefix}{segment.epoch}/{segment.number}.m4s\n"
        # The tag in front of the first segment is counted where it has left the list with its predecessor.
        return self._head(lead) + begin + first_lines + self._lines_from(first + 1) + self._tail()

    def _lines_from(self, index: int) -> str:
        begin = self._begins[index] if index < len(self._begins) else len(self._lines)
        return self._lines[begin:].decode("ascii")

    def _map_line(self, epoch: int) -> str:
        return f'#EXT-X-MAP:URI="{self._prefix}{epoch}/init.mp4"'

    def _head(self, window: str = "") -> str:
        control = [f"HOLD-BACK={LEAST_TARGETS * self.target}.0"]
        if not window:
            control.append(f"CAN-SKIP-UNTIL={SKIP_TARGETS * self.target}.0")
        if self.can_block_reload:
            control.append("CAN-BLOCK-RELOAD=YES")
        listing = window or f"#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:{self.kind.upper()}\n"
        server = "" if self.kind == "vod" else f"#EXT-X-SERVER-CONTROL:{','.join(control)}\n"
        return f"#EXTM3U\n#EXT-X-VERSION:{HLS_VERSION}\n#EXT-X-TARGETDURATION:{self.target}\n{server}{listing}"

    def _tail(self) -> str:
        return "#EXT-X-ENDLIST\n" if self.ended else ""

    def _index_from_end(self, seconds: float) -> int:
        """Return the first segment of the shortest end of the list that is at least so long."""
        total = 0.0
        for index in range(len(self._segments) - 1, -1, -1):
            total += self._segments[index].seconds
            if total >= seconds:
                return index
        return 0


def format_date(seconds: float) -> str:
    """Return a date of RFC 3339 with milliseconds, in UTC."""
    moment = dt.datetime.fromtimestamp(round(seconds, 3), dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
