"""Live streams on the page, in Chromium: recorded by MediaRecorder, watched in a second window by our own player, whose frames
are read by a bar code; rewound while live; ended; and sought in as a file.

Playwright drives Debian's Chromium. Where Node, npm or the browser is not available, these tests are skipped and say so.
"""

import contextlib
import itertools
import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hls_rules import check_playlist
from tests.support.npm import NpmPackages
from tests.support.programs import require_program
from tests.support.scenarios import ScenarioProgram
from tests.support.stack import Stack
from tests.support.videos import FRAGMENTED_MP4_TO_STDOUT

PROGRAM = Path(__file__).parent / "live.mjs"
FRAME_TOLERANCE = 0.5
"""Seconds: the counter has tenths, the recorder and the decoder a frame each, on a machine that does other things as well."""
PICTURE_ENDS, PICTURE_IS_BACK, SAMPLE_SECONDS = 6, 14, 20
"""Seconds: of the sample that is published."""
VIDEO_TICKS = 12_800
"""A second of its picture, as ffmpeg writes 25 frames a second."""


@pytest.fixture(scope="module")
def browser(
    npm: NpmPackages, stack: Stack, ffmpeg: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScenarioProgram]:
    folder = tmp_path_factory.mktemp("live_page")
    encode_pausing_picture(ffmpeg, sample := folder / "pausing.mp4")
    program = ScenarioProgram(npm, folder, PROGRAM, ["playwright-core", "axe-core"], stack.url, str(sample))
    with contextlib.closing(program):
        yield program


def encode_pausing_picture(ffmpeg: str, path: Path) -> None:
    """Write the sample: `live.mjs` says what is seen and heard in it."""
    bars = "geq=lum='255*mod(floor(floor(T*10+0.001)/pow(2,15-X)),2)'".replace(",", r"\,")
    shown = rf"select='lt(t\,{PICTURE_ENDS})+gte(t\,{PICTURE_IS_BACK})'"
    picture = f"color=black:s=16x2:r=25:d={SAMPLE_SECONDS},format=gray,{bars},scale=320:180:flags=neighbor,{shown}"
    sound = f"aevalsrc='sin(2*PI*(400*t+25*t*t))':s=48000:d={SAMPLE_SECONDS}"
    command = [
        ffmpeg,
        "-v",
        "error",
        "-nostdin",
        "-f",
        "lavfi",
        "-i",
        picture,
        "-f",
        "lavfi",
        "-i",
        sound,
        "-vsync",
        "vfr",
    ]
    sent = subprocess.check_output([*command, *FRAGMENTED_MP4_TO_STDOUT], timeout=60)
    # ffmpeg knows how long the last frame stands; a recorder, which sends each second of what comes, does not.
    frame = VIDEO_TICKS // 25
    last = struct.pack(">I", (PICTURE_IS_BACK - PICTURE_ENDS) * VIDEO_TICKS + frame)
    assert sent.count(last) == 1
    path.write_bytes(sent.replace(last, struct.pack(">I", frame)))


def first_frame_after(ffprobe: str, address: str, seconds: float) -> float:
    """The time of the first frame that ffprobe decodes after it has sought in the video of an address, and stepped on."""
    command = [ffprobe, "-v", "error", "-select_streams", "v", "-read_intervals", f"{seconds}%+20", "-of", "json"]
    command += ["-show_entries", "frame=pts_time", address]
    frames = json.loads(subprocess.check_output(command, timeout=60))["frames"]
    return min(float(frame["pts_time"]) for frame in frames if float(frame["pts_time"]) >= seconds)


def frame_of_mpv(ffmpeg: str, address: str, seconds: float, folder: Path) -> float:
    """What the bar code says, in seconds, in the frame that mpv shows when it begins at this place."""
    mpv = require_program("mpv", "mpv")
    options = ["--no-config", "--no-audio", "--hr-seek=yes", "--frames=1", "--vo=image", "--vo-image-format=png"]
    place = [f"--start={seconds}", f"--vo-image-outdir={folder}"]
    subprocess.run([mpv, *options, *place, "--msg-level=all=error", address], check=True, timeout=60)
    (picture,) = folder.glob("*.png")
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(picture), "-vf", "scale=320:180", "-pix_fmt", "gray"]
    pixels = subprocess.check_output([*command, "-f", "rawvideo", "-"], timeout=60)
    row = pixels[90 * 320 : 91 * 320]
    return int("".join("1" if row[bar * 20 + 10] > 127 else "0" for bar in range(16)), 2) / 10


def test_stream_is_watched_rewound_ended_and_sought_in(
    browser: ScenarioProgram, stack: Stack, ffmpeg: str, tmp_path: Path
) -> None:
    """Counter and time of the media differ by the same everywhere: live, at the start, after a lost network, and in the file."""
    seen = browser.seen("stream")
    assert seen["start"]["time"] < 2
    ahead = seen["start"]["counted"] - seen["start"]["time"]
    for place in (seen["live"], seen["edge"], *seen["seeks"]):
        assert place["counted"] - place["time"] == pytest.approx(ahead, abs=FRAME_TOLERANCE), seen
    assert seen["stateAtStart"] == "live", "it was rewound while it went on"
    assert seen["behind"] == "Go live"
    assert "waits here, and follows" in seen["lost"]
    assert seen["edge"]["time"] > seen["live"]["time"]
    ended = seen["ended"]
    assert (ended["state"], ended["file"]["folder"], ended["file"]["filename"]) == ("ended", "shows", "stream.mp4")
    assert seen["duration"] == pytest.approx(ended["duration"], abs=0.5)
    assert seen["errors"] == []
    address = f"{stack.url}/file/stream?folder=shows&filename=stream.mp4"
    ffprobe = require_program("ffprobe", "ffmpeg")
    entries = ["-show_entries", "format=duration:stream=codec_name", "-of", "json", address]
    probed = json.loads(subprocess.check_output([ffprobe, "-v", "error", *entries], timeout=60))
    assert float(probed["format"]["duration"]) == pytest.approx(ended["duration"], abs=0.5)
    assert {stream["codec_name"] for stream in probed["streams"]} == {"h264", "opus"}
    for place in (0.75 * seen["duration"], 0.25 * seen["duration"]):
        assert first_frame_after(ffprobe, address, place) == pytest.approx(place, abs=FRAME_TOLERANCE)
        shown = frame_of_mpv(ffmpeg, address, place, tmp_path / f"at {place:.3f}")
        assert shown - place == pytest.approx(ahead, abs=FRAME_TOLERANCE), seen
    live_list, last_list = (seen["lists"][when] for when in ("live", "ended"))
    assert not check_playlist(live_list).ended
    assert check_playlist(last_list).ended
    assert len(check_playlist(last_list).entries) > len(check_playlist(live_list).entries)


def test_viewer_who_was_away_for_longer_than_the_window_goes_on_at_its_start(browser: ScenarioProgram) -> None:
    """Row 32: nothing is played twice, and the frame is the right one."""
    seen = browser.seen("window")
    assert seen["left"] >= 2, "its next segment had left the list"
    before, after = seen["before"], seen["after"]
    assert after["counted"] - before["counted"] >= 2 * seen["left"] - FRAME_TOLERANCE, (
        "two seconds for each that has left"
    )
    assert after["counted"] - after["time"] == pytest.approx(before["counted"] - before["time"], abs=FRAME_TOLERANCE), (
        seen
    )
    assert seen["errors"] == []


def test_messages_are_shown_where_they_happened(browser: ScenarioProgram) -> None:
    seen = browser.seen("messages")
    assert (seen["early"], seen["left"]) == (201, "")
    assert seen["again"] == ["early"], "what was said later comes later"
    assert 2 <= seen["shownAt"] < 4
    (early, said) = seen["stored"]
    assert early == [2, "early"]
    assert said[0] > 4
    assert said[1] == "<b>now</b>", "text is text"
    assert seen["errors"] == []


def test_faults_are_said_and_discarding_leaves_nothing(browser: ScenarioProgram) -> None:
    seen = browser.seen("faults")
    assert seen["stopped"].startswith("Sending stopped: this page gets no picture"), "its own timer"
    assert seen["unheard"].startswith("Sending stopped: the server gets nothing"), "the event live.interrupted"
    assert seen["interrupted"] == "interrupted"
    assert seen["inBackground"], "another view does not end it"
    assert seen["status"] in {404, 410}
    assert "ffmpeg" in seen["noMp4"]
    assert seen["command"].startswith("ffmpeg -re -i input.mp4 ")
    assert seen["errors"] == []


def test_view_is_loaded_late_fits_and_is_accessible(browser: ScenarioProgram) -> None:
    seen = browser.seen("view")
    assert seen["early"] == [], "the first download has nothing of it"
    assert seen["found"] == []
    assert set(seen["widths"].values()) == {0}
    assert seen["errors"] == []


def test_picture_that_pauses_is_stepped_over_and_the_sound_keeps_its_time(browser: ScenarioProgram) -> None:
    """Row 16: Chromium plays the sound alone for 3 s, and waits then for a picture that comes at a later time."""
    seen = browser.seen("pause")
    for places in (seen["live"], seen["sought"]):
        times = [place["time"] for place in places]
        assert times == sorted(times), "nothing is played twice"
        for place in places:
            if place["time"] < PICTURE_ENDS or place["time"] > PICTURE_IS_BACK + FRAME_TOLERANCE:
                assert place["counted"] == pytest.approx(place["time"], abs=FRAME_TOLERANCE), places
        heard = [
            place
            for before, place in itertools.pairwise(places)
            if place["heard"] is not None and place["time"] - before["time"] < FRAME_TOLERANCE
        ]
        assert len(heard) >= 10, places
        for place in heard:
            assert place["heard"] == pytest.approx(place["time"], abs=FRAME_TOLERANCE), places
        assert any(PICTURE_IS_BACK <= time < PICTURE_IS_BACK + 1 for time in times), (
            "nothing behind the pause is left out"
        )
    assert any(place["time"] < PICTURE_ENDS for place in seen["live"]), "it was watched before the pause"
    assert seen["after"]["time"] > PICTURE_IS_BACK + 1
    assert seen["after"]["counted"] == pytest.approx(seen["after"]["time"], abs=FRAME_TOLERANCE)
    assert seen["errors"] == []
    entries = check_playlist(seen["list"]).entries
    assert not any(entry.discontinuity for entry in entries)
    assert sum(entry.seconds for entry in entries) == pytest.approx(SAMPLE_SECONDS, abs=0.1)
    assert (seen["ended"]["state"], seen["ended"]["duration"]) == ("ended", pytest.approx(SAMPLE_SECONDS, abs=0.1))
