"""The multivariant playlist, with m3u8 as the judge."""

import m3u8

from services.common.live.initialisation import read_init
from services.common.live.multivariant import MEASURED_SEGMENTS, render_multivariant
from services.common.live.segments import Segment
from tests.support.fragmented_mp4 import init


def segment(number: int, size: int, seconds: float = 2.0) -> Segment:
    return Segment(number, 0, 0, size, 0, round(seconds * 90_000), 90_000, 0.0, True)


def test_bit_rates_are_those_of_the_newest_segments() -> None:
    old, new = [segment(0, 10_000_000)], [segment(1 + n, 250_000) for n in range(MEASURED_SEGMENTS - 1)]
    text = render_multivariant(read_init(init()), [*old, *new, segment(999, 500_000)], "media.m3u8")
    (variant,) = m3u8.loads(text).playlists
    assert variant.uri == "media.m3u8"
    assert variant.stream_info.bandwidth == 2_000_000
    assert 1_000_000 < variant.stream_info.average_bandwidth < 1_010_000
    assert variant.stream_info.resolution == (160, 90)
    assert variant.stream_info.codecs.startswith("avc1.")


def test_sound_alone_has_no_size_and_an_empty_segment_no_rate() -> None:
    text = render_multivariant(read_init(init(video=False)), [segment(0, 100, 0)], "m")
    (variant,) = m3u8.loads(text).playlists
    assert variant.stream_info.resolution is None
    assert variant.stream_info.bandwidth == 1
