"""Playlists: every list and every step from one list to the next keeps the rules of the draft."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.playlist import Playlist, format_date
from services.common.live.segments import Epoch, Segment
from tests.support.hls_rules import apply_delta, check_playlist, check_reload

NOW = 1_800_000_000.0


def make_playlist(lengths: list[float], epochs: list[int] | None = None, **options: object) -> Playlist:
    """A list with segments of these lengths in seconds, and the number of each one's epoch."""
    playlist = Playlist(2, **options)  # type: ignore[arg-type]
    grow(playlist, lengths, epochs)
    return playlist


def grow(playlist: Playlist, lengths: list[float], epochs: list[int] | None = None) -> None:
    """Append segments."""
    for index, seconds in enumerate(lengths):
        last = playlist.segments[-1] if playlist.segments else None
        epoch = epochs[index] if epochs else 0
        start = last.start + last.duration if last else 0
        date = last.date + last.seconds if last else NOW
        if last is None or last.epoch != epoch:
            date += 5 * (last is not None)
            playlist.add_epoch(Epoch(epoch, b"", 1000, 0, start, date))
        number = playlist.last_number + 1
        playlist.append(Segment(number, epoch, 0, 1, start, round(seconds * 1000), 1000, date, True))


def test_the_text_of_a_list() -> None:
    playlist = make_playlist([2, 2, 2.004], [0, 0, 1], prefix="/live/1/")
    playlist.can_block_reload = True
    assert playlist.render().splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:9",
        "#EXT-X-TARGETDURATION:2",
        "#EXT-X-SERVER-CONTROL:HOLD-BACK=6.0,CAN-SKIP-UNTIL=12.0,CAN-BLOCK-RELOAD=YES",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:EVENT",
        '#EXT-X-MAP:URI="/live/1/0/init.mp4"',
        "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.000Z",
        "#EXTINF:2.00000,",
        "/live/1/0/0.m4s",
        "#EXTINF:2.00000,",
        "/live/1/0/1.m4s",
        "#EXT-X-DISCONTINUITY",
        '#EXT-X-MAP:URI="/live/1/1/init.mp4"',
        "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:09.000Z",
        "#EXTINF:2.00400,",
        "/live/1/1/2.m4s",
    ]
    check_playlist(playlist.render())


def test_a_list_is_shown_when_it_is_long_enough_or_has_ended() -> None:
    assert not make_playlist([2, 2]).is_listable
    ended = make_playlist([2, 2])
    ended.end()
    assert ended.is_listable
    assert make_playlist([2, 2, 2]).is_listable
    assert not make_playlist([], kind="vod").is_listable


def test_a_vod_list_has_an_end_and_offers_no_reload() -> None:
    text = make_playlist([2], kind="vod").render()
    assert check_playlist(text).tags["PLAYLIST-TYPE"] == "VOD"
    assert "SERVER-CONTROL" not in text


def test_a_segment_out_of_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="segment 7"):
        make_playlist([2]).append(Segment(7, 0, 0, 1, 0, 1, 1, 0.0, True))


def test_dates_are_repeated_once_a_minute() -> None:
    assert make_playlist([2] * 90).render().count("PROGRAM-DATE-TIME") == 3


STEPS = st.lists(st.tuples(st.sampled_from([0.04, 1, 1.96, 2, 2.499]), st.integers(0, 9)), min_size=1, max_size=60)


@given(steps=STEPS, window=st.sampled_from([0, 10, 60]))
def test_every_list_and_every_step_keeps_the_rules(steps: list[tuple[float, int]], window: int) -> None:
    playlist, epoch = Playlist(2), 0
    whole = sliding = ""
    for seconds, dice in steps:
        epoch += dice == 0
        grow(playlist, [seconds], [epoch])
        if not playlist.is_listable:
            continue
        if whole:
            assert apply_delta(whole, playlist.render_delta()) == playlist.render()
            check_reload(whole, playlist.render())
            check_reload(sliding, playlist.render_window(window))
        whole, sliding = playlist.render(), playlist.render_window(window)
        check_playlist(playlist.render_delta())
        assert gzip.decompress(playlist.render_gzip()).decode() == whole
    playlist.end()
    check_playlist(playlist.render_window(window))
    assert playlist.render_delta() == playlist.render()
    assert gzip.decompress(playlist.render_gzip()).decode() == playlist.render()
    if whole:
        check_reload(whole, playlist.render())


def test_blocking_reloads_may_begin_later() -> None:
    playlist = make_playlist([2] * 3)
    playlist.render_gzip()
    playlist.can_block_reload = True
    assert gzip.decompress(playlist.render_gzip()).decode() == playlist.render()


def test_a_day_of_segments_stays_small() -> None:
    playlist = make_playlist([2] * 43_200)
    assert len(playlist.render_gzip()) < 400 * 1024
    assert len(playlist.render_delta()) < 4096


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (("#EXTINF:2.00000", "#EXTINF:2.60000"), "EXTINF above"),
        (("HOLD-BACK=6.0", "HOLD-BACK=5.0"), "three targets behind"),
        (("#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.000Z\n", ""), "PROGRAM-DATE-TIME"),
        (("#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-MEDIA-SEQUENCE:3"), "first segment"),
        (("EVENT", "VOD"), "has an end"),
        (("/1.m4s", "/0.m4s"), "twice"),
    ],
)
def test_the_judge_finds_broken_lists(broken: tuple[str, str], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_playlist(make_playlist([2, 2, 2]).render().replace(*broken))


def test_dates_have_milliseconds() -> None:
    assert format_date(1.9996) == "1970-01-01T00:00:02.000Z"
