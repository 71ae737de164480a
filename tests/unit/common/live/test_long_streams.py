"""A stream of a day: what is kept of it does not grow but by its segments."""

import tracemalloc

import pytest

from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.header import render_header
from services.common.live.playlist import Playlist
from tests.support.fragmented_mp4 import fragment, init

FRAGMENTS_PER_HOUR = 1800
BLOCK_BYTES = 255 * 1024


@pytest.mark.long
def test_a_day_of_two_second_segments() -> None:
    reader, cutter, playlist = FragmentReader(), Cutter(2, BLOCK_BYTES), Playlist(2)
    (first,) = reader.feed(init())
    assert not isinstance(first, Fragment)
    cutter.set_init(first)
    after_an_hour = 0
    tracemalloc.start()
    try:
        for number in range(24 * FRAGMENTS_PER_HOUR):
            for unit in reader.feed(fragment(2 * number, 2)):
                assert isinstance(unit, Fragment)
                cut = cutter.add(unit, 2.0 * number)
                for epoch in cut.epochs:
                    playlist.add_epoch(epoch)
                for segment in cut.segments:
                    playlist.append(segment)
            assert len(playlist.render_delta()) < 4096
            if number == FRAGMENTS_PER_HOUR:
                after_an_hour = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - after_an_hour
    finally:
        tracemalloc.stop()
    assert len(playlist.segments) == 24 * FRAGMENTS_PER_HOUR
    assert grown < 23 * FRAGMENTS_PER_HOUR * 800  # a tuple, a line of text, and what they hold
    assert len(playlist.render_gzip()) < 400 * 1024
    assert len(render_header(first, playlist.segments, BLOCK_BYTES)) == BLOCK_BYTES
