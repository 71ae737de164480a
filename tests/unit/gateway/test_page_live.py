"""What the page knows of HLS and fragmented MP4, in Node: lists of our own server are read as it wrote them, and the player
by Media Source Extensions keeps what it should, against a buffer that does what the standard says.
"""

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.live.playlist import Playlist
from services.common.live.segments import Epoch, Segment
from tests.support.fragmented_mp4 import fragment, init
from tests.support.page_program import run_page_program

PROGRAMS = Path(__file__).parent / "js"
LISTS = (PROGRAMS / "hls_lists.mjs").read_text("utf-8")
TIMES = (PROGRAMS / "fmp4_times.mjs").read_text("utf-8")
PLAYER = (PROGRAMS / "hls_source.mjs").read_text("utf-8")


def grow(playlist: Playlist, lengths: list[float], epochs: list[int]) -> None:
    """Append segments of these lengths in seconds."""
    for seconds, epoch in zip(lengths, epochs, strict=True):
        last = playlist.segments[-1] if playlist.segments else None
        start = last.start + last.duration if last else 0
        if last is None or last.epoch != epoch:
            playlist.add_epoch(Epoch(epoch, b"", 1000, 0, start, 1.8e9))
        duration = round(seconds * 1000)
        playlist.append(Segment(playlist.last_number + 1, epoch, 0, 1, start, duration, 1000, 1.8e9, True))


def check_list(read: dict[str, Any], playlist: Playlist, first: int = 0) -> None:
    """What was read is what the server knows."""
    assert [segment[0] for segment in read["segments"]] == list(range(first, playlist.last_number + 1))
    for number, address, start, duration, address_of_init, epoch in read["segments"]:
        segment = playlist.segments[number]
        assert address == f"http://a/live/x/{segment.epoch}/{number}.m4s"
        assert address_of_init == f"http://a/live/x/{segment.epoch}/init.mp4"
        assert abs(start - segment.start / 1000) < 0.001
        assert (duration, epoch) == (segment.seconds, segment.epoch)
    assert read["target"] == 2
    assert read["ended"] is playlist.ended


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_lists_are_read_as_the_server_wrote_them(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Whole lists, delta updates and windows of a list that grows, with epochs."""
    playlist, windows = Playlist(2), []
    steps: list[dict[str, str]] = []
    epoch = 0
    for count in [20, *data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))]:
        lengths = data.draw(st.lists(st.sampled_from([1.2, 1.999, 2.0, 2.004]), min_size=count, max_size=count))
        epoch += bool(steps) and data.draw(st.booleans())
        grow(playlist, lengths, [epoch] * count)
        steps.append(
            {"whole": playlist.render(), "delta": playlist.render_delta(), "window": playlist.render_window(14)}
        )
        windows.append((len(playlist.segments), playlist.ended))
    steps[0]["delta"] = steps[0]["whole"]
    playlist.can_block_reload = True
    playlist.end()
    steps.append({"whole": playlist.render(), "delta": playlist.render_delta(), "window": playlist.render_window(14)})
    index = '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=5,CODECS="avc1.42c01f,opus",RESOLUTION=2x1\nmedia.m3u8?link=t\n'
    seen = run_page_program(tmp_path_factory.mktemp("lists"), LISTS, {"steps": steps, "index": index})
    last = seen["seen"][-1]
    check_list(last["whole"], playlist)
    check_list(last["delta"], playlist)
    check_list(last["window"], playlist, last["window"]["segments"][0][0])
    assert len(last["window"]["segments"]) < len(playlist.segments)
    for (length, _), step in zip(windows, seen["seen"], strict=False):
        assert len(step["whole"]["segments"]) == len(step["delta"]["segments"]) == length
        assert step["whole"]["segments"] == step["delta"]["segments"]
    assert seen["at"][0] == seen["at"][1] == 0
    assert seen["at"][4] == playlist.last_number
    assert all(seen["faults"][:3])
    assert seen["faults"][4]
    assert seen["index"] == {"address": "http://a/live/x/media.m3u8?link=t", "codecs": "avc1.42c01f,opus"}


def test_reloads_are_held_and_skip_what_is_known(tmp_path: Path) -> None:
    playlist = Playlist(2)
    grow(playlist, [2.0] * 12, [0] * 12)
    playlist.can_block_reload = True
    steps = [{"whole": playlist.render(), "delta": playlist.render(), "window": playlist.render_window(14)}]
    steps.append({**steps[0], "delta": playlist.render_delta()})
    index = '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=5,CODECS="a"\nmedia.m3u8\n'
    seen = run_page_program(tmp_path, LISTS, {"steps": steps, "index": index})
    base = "http://a/live/x/media.m3u8?link=t"
    assert seen["asked"] == [f"{base}&_HLS_msn=12&_HLS_skip=YES", f"{base}&_HLS_msn=12"]
    assert seen["faults"][3] == "the update skips segments that are not known"
    assert seen["at"] == [0, 0, 0, 1, 11]


def test_times_are_read_from_fragments(tmp_path: Path) -> None:
    """Both versions of the box, the earliest of the tracks; what is cut or empty says nothing."""
    fragments = [
        fragment(12.5, 2),
        fragment(1.25, 2, version=0, audio_offset=-0.25),
        fragment(1 << 20, 2) + fragment(5, 2),
        init(),
    ]
    encoded = [base64.b64encode(one).decode() for one in (init(), *fragments)]
    seen = run_page_program(tmp_path, TIMES, {"init": encoded[0], "fragments": encoded[1:]})
    assert seen["scales"] == [[1, 90_000], [2, 48_000]]
    assert seen["times"] == [12.5, 1.0, 1 << 20, None]
    assert seen["cut"] is seen["empty"] is None


@pytest.mark.parametrize("length", [2.0, 2.08], ids=["exact", "drifting"])
def test_player_keeps_a_minute_and_loads_the_rest_again(tmp_path: Path, length: float) -> None:
    """A stream whose second sender began at another time, joined live; back to the start, to the edge again, and to its end.

    The list says that segments have two seconds, also where the sender skips something between two of them.
    """
    playlist, lists = Playlist(2), []
    playlist.can_block_reload = True
    epochs = [0] * 70 + [1] * 30
    grow(playlist, [2.0] * 20, epochs[:20])
    lists.append(playlist.render())
    for number in range(20, len(epochs)):
        grow(playlist, [2.0], [epochs[number]])
        lists.append(playlist.render())
    second = 9_000 - 70 * length
    segments = [fragment(length * number + (second if number >= 70 else 0), 2) for number in range(100)]
    given_ = {
        "lists": lists,
        "inits": [base64.b64encode(init()).decode(), base64.b64encode(init(codec=b"avc3")).decode()],
        "length": length,
        "segments": [base64.b64encode(one).decode() for one in segments],
    }
    seen = run_page_program(tmp_path, PLAYER, given_)
    assert seen["failed"] is None
    time, first, known = seen["joined"]
    assert (known["start"], known["ended"]) == (0, False)
    assert known["end"] >= 40
    assert time >= known["end"] - 12
    assert first >= 16, "it joins at the edge, and loads nothing before it"
    assert 55 <= seen["widest"] <= 70
    assert seen["log"] == ['video/mp4; codecs="avc1.42c01f,mp4a.40.2"', "init", "init"]
    assert seen["epochs"] == 1 or length > 2, "the epochs join"
    assert seen["rewound"] == [False, [0, 1, 2], 0]
    assert int(61 / length) in seen["middle"], "found at once, or behind one that begins too late"
    hole, stepped = seen["paused"]
    assert (hole, stepped) == (pytest.approx(15 * length, abs=0.1), pytest.approx(0, abs=0.1)), (
        "the pause is stepped over"
    )
    stepped, fetched = seen["ranOn"]
    assert stepped == pytest.approx(0, abs=0.1), "and from its middle"
    assert all(length * number > 110 for number in fetched), "nothing of the pause is loaded again"
    assert seen["bounded"] is seen["again"] is True
    assert seen["ended"] == [True, pytest.approx(200 + 100 * (length - 2), abs=6)]


def test_player_places_files_whose_times_begin_anew_one_behind_the_other(tmp_path: Path) -> None:
    """A sender that goes on with another picture, twice: the second file is short, so that the times of both nearly fit."""
    playlist, lists = Playlist(2), []
    playlist.can_block_reload = True
    begins = (0, 70, 75)
    epochs = [0] * 70 + [1] * 5 + [2] * 25
    grow(playlist, [2.0] * 20, epochs[:20])
    lists.append(playlist.render())
    for number in range(20, len(epochs)):
        grow(playlist, [2.0], [epochs[number]])
        lists.append(playlist.render())
    segments = [fragment(2 * (number - begins[epoch]), 2) for number, epoch in enumerate(epochs)]
    given_ = {
        "lists": lists,
        "inits": [base64.b64encode(init(size=(160 + number, 90))).decode() for number in range(3)],
        "length": 2.0,
        "segments": [base64.b64encode(one).decode() for one in segments],
    }
    seen = run_page_program(tmp_path, PLAYER, given_)
    assert (seen["failed"], seen["epochs"], seen["ended"]) == (None, 1, [True, 200])
    assert seen["log"].count("init") == 3
    assert seen["bounded"]
