"""The multivariant playlist of a live stream: one variant, with what a player wants to know before it loads anything. Pure.

The rules are those of draft-pantos-hls-rfc8216bis, 4.4.6.2.
"""

from collections.abc import Sequence

from services.common.live.initialisation import InitSegment
from services.common.live.playlist import HLS_VERSION
from services.common.live.segments import Segment

MEASURED_SEGMENTS = 300
"""The newest segments that the bit rates are measured on."""


def render_multivariant(init: InitSegment, segments: Sequence[Segment], media_uri: str) -> str:
    """Return the list. BANDWIDTH is the peak of the newest segments, a bit rate with the overhead of the container."""
    measured = [segment for segment in segments[-MEASURED_SEGMENTS:] if segment.duration > 0]
    peak = max((segment.size * 8 / segment.seconds for segment in measured), default=1.0)
    seconds = sum(segment.seconds for segment in measured)
    average = sum(segment.size for segment in measured) * 8 / seconds if seconds else peak
    attributes = [f"BANDWIDTH={max(1, round(peak))}", f"AVERAGE-BANDWIDTH={max(1, round(average))}"]
    attributes.append(f'CODECS="{",".join(init.codecs)}"')
    if init.width and init.height:
        attributes.append(f"RESOLUTION={init.width}x{init.height}")
    return f"#EXTM3U\n#EXT-X-VERSION:{HLS_VERSION}\n#EXT-X-STREAM-INF:{','.join(attributes)}\n{media_uri}\n"
