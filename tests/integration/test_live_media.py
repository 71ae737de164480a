"""Odd media sent to a live service: what is listed, what begins an epoch, what is refused before anything is listed."""

import struct
import subprocess
from pathlib import Path

import httpx
import pytest

from deploy.ingest.listeners import IngestListener, IngestSettings, ffmpeg_command
from services.common.containers.scanner import FactsScanner
from services.common.live.initialisation import SAMPLE_ENTRIES
from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import AUDIO, VIDEO, box, fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import make_stream, media_of, read_file, read_list
from tests.support.process_stats import anonymous_memory
from tests.support.processes import ServiceProcess
from tests.support.videos import FRAGMENTED_MP4_TO_STDOUT
from tests.support.waiting import eventually


def many(count: int, *, key: bool = True, durations: bool = True) -> bytes:
    return b"".join(fragment(at, 1, key=key, durations=durations) for at in range(count))


@pytest.mark.parametrize(
    ("sent", "segments", "seconds"),
    [
        pytest.param(
            init() + fragment(100, 2) + fragment(98, 2) + fragment(102, 2), 2, 4, id="6 older media is dropped"
        ),
        pytest.param(init() + fragment(0, 2) + fragment(20, 2), 2, 4, id="6 a jump is an epoch"),
        pytest.param(init() + fragment(5000, 2) + fragment(0, 2), 2, 4, id="6 time that begins anew is an epoch"),
        pytest.param(init() + fragment(0, 1, key=False) + fragment(1, 2) + fragment(3, 2), 2, 4, id="11 no key frame"),
        pytest.param(init() + fragment(0, 1) + init() + fragment(1, 1), 1, 2, id="13 the same init again"),
        pytest.param(init() + fragment(0, 2) + fragment(2, 2, audio_offset=0.9), 2, 4.9, id="15 a gap in audio"),
        pytest.param(init(video=False) + b"".join(fragment(at, 1, tracks=(AUDIO,)) for at in range(4)), 2, 4, id="16"),
        pytest.param(init(audio=False) + b"".join(fragment(at, 1, tracks=(VIDEO,)) for at in range(4)), 2, 4, id="16 "),
        pytest.param(init() + many(4, durations=False), 2, 4, id="17 durations of 0"),
        pytest.param(init() + fragment(0, 5) + fragment(5, 5), 2, 10, id="9 fragments that are too long"),
    ],
)
def test_what_is_listed(
    live: ServiceProcess, library: ServiceProcess, sent: bytes, segments: int, seconds: float
) -> None:
    client = make_stream(live)
    middle = len(sent) // 2
    assert client.patch(0, sent[:middle]).status_code == 204
    assert client.patch(middle, sent[middle:], len(sent)).status_code == 204
    described = client.get()
    assert (described["segments"], described["duration"]) == (segments, pytest.approx(seconds))
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)


def deep(levels: int) -> bytes:
    """Boxes in boxes."""
    found = b""
    for _ in range(levels):
        found = box(b"moov" if not found else b"trak", found)
    return found


def with_base_time(ticks: int) -> bytes:
    """A fragment whose tracks have this signed base time."""
    return fragment(0, 1).replace(
        struct.pack(">4sIQ", b"tfdt", 1 << 24, 0), struct.pack(">4sIq", b"tfdt", 1 << 24, ticks)
    )


def many_samples(count: int) -> bytes:
    """A fragment whose `trun` states a sample count and has no sample table."""
    whole = fragment(0, 1)
    return whole.replace(struct.pack(">4sII", b"trun", 0x304, 1), struct.pack(">4sII", b"trun", 0x304, count))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(init(timescale=0), 415, id="8 a timescale of 0"),
        pytest.param(init() + fragment((1 << 62) / 90_000, 1), 400, id="8 a base time that is huge"),
        pytest.param(init() + fragment(0, 47_000), 400, id="8 a duration that is huge"),
        pytest.param(init() + with_base_time(-90_000), 400, id="8 a base time that is negative"),
        pytest.param(init() + many(32, key=False), 400, id="10 no key frame within 30 s"),
        pytest.param(init(codec=b"encv"), 415, id="14 encrypted"),
        pytest.param(struct.pack(">I4sQ", 1, b"moov", 1 << 62), 415, id="35 a box of 2^62 bytes"),
        pytest.param(init() + struct.pack(">I4sQ", 1, b"mdat", 1 << 62), 400, id="35 an mdat of 2^62 bytes"),
        pytest.param(init() + struct.pack(">I4s", 7, b"moof"), 400, id="35 a box that is shorter than its header"),
        pytest.param(box(b"moov", deep(2000)), 415, id="35 nested boxes"),
        pytest.param(box(b"ftyp", bytes(1 << 20)), 415, id="35 a large ftyp"),
        pytest.param(box(b"moov", bytes(1 << 20)), 415, id="35 a moov of 1 MiB"),
        pytest.param(init() + many_samples(1_000_000), 400, id="35 a million samples"),
        pytest.param(init() + box(b"moof", deep(2000)) + box(b"mdat"), 400, id="35 nested boxes in a fragment"),
    ],
)
def test_what_is_refused_before_anything_is_listed(live: ServiceProcess, sent: bytes, status: int) -> None:
    client = make_stream(live)
    answer = client.patch(0, sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    described = client.get()
    assert (described["state"], described["segments"], described["bytes"]) == ("waiting", 0, BLOCK_SIZE)


def test_what_is_taken_is_said_where_something_is_not(live: ServiceProcess) -> None:
    """Row 14."""
    for codec in (b"encv", b"vp08"):
        detail = make_stream(live).patch(0, init(codec=codec)).json()["detail"]
        assert all(entry.decode() in detail for entry in SAMPLE_ENTRIES)


def test_memory_that_refused_media_has_held_is_given_back(live: ServiceProcess) -> None:
    """Row 35: each request is over before its box would be complete; the next ones find the room of those before."""
    bodies = (box(b"ftyp", bytes(1 << 20)), init() + box(b"moof", bytes(1 << 20)) + b"\x00" * 64)
    for body in bodies:  # what is allocated once
        make_stream(live).patch(0, body)
    before = anonymous_memory(live.pid)
    for _ in range(10):
        for body in bodies:
            assert make_stream(live).patch(0, body).status_code in {400, 415}
    # The allocator returns what is free every five seconds.
    eventually(lambda: anonymous_memory(live.pid) - before < 8 << 20, 20, "the memory is given back")


def test_a_sender_without_key_frames_is_told_why(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 10: what came for half a minute was dropped; with a key frame in time the stream would have begun."""
    client = make_stream(live)
    sent = init() + many(30, key=False)
    assert client.patch(0, sent).status_code == 204
    assert (client.get()["state"], read_list(library, client).status_code) == ("waiting", 404)
    answer = client.patch(len(sent), fragment(30, 1, key=False))
    assert (answer.status_code, "no key frame within 30 s" in answer.json()["detail"]) == (400, True)
    other = make_stream(live)
    assert other.patch(0, sent + fragment(30, 2)).status_code == 204
    assert other.get()["duration"] == 2


def test_a_size_that_changes_in_band_is_no_epoch(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 11: the parameter sets of avc3 are in the samples, so the list says the first size on."""
    client = make_stream(live)
    sent = init(codec=b"avc3") + fragment(0, 2) + fragment(2, 2, fill=900) + fragment(4, 2, fill=900)
    assert client.patch(0, sent).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False] * 3
    variants = httpx.get(f"{library.url}/live/{client.id}/index.m3u8").raise_for_status().text
    assert "RESOLUTION=160x90" in variants
    assert "avc3" in variants


def test_time_stamps_of_33_bits_that_wrap_are_unwrapped_by_the_remuxer(
    live: ServiceProcess, library: ServiceProcess, ffmpeg: str
) -> None:
    """Row 8: MPEG-TS that begins 3 s before 2^33 ticks of 90 kHz, copied by the command of the ingest."""
    wrap = (1 << 33) / 90_000
    command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=25:duration=6", "-c:v"]
    command += ["libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p", "-muxdelay", "0"]
    command += ["-output_ts_offset", str(wrap - 3), "-f", "mpegts", "-"]
    transport = subprocess.check_output(command, timeout=60)
    ingest = ffmpeg_command(IngestListener("mpegts", 1), IngestSettings("http://localhost", "0123456789abcdef"))
    remux = ["-" if part.startswith("tcp://") else part for part in ingest[1:]]
    sent = subprocess.run([ffmpeg, *remux], input=transport, check=True, capture_output=True, timeout=60).stdout
    client = make_stream(live)
    assert client.patch(0, sent, len(sent)).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False] * 3
    assert sum(entry.seconds for entry in listed.entries) == pytest.approx(6, abs=0.1)


def test_a_jump_is_a_discontinuity_in_the_list(live: ServiceProcess, library: ServiceProcess) -> None:
    """The sender's time goes on 18 s later: the file's time has no hole."""
    client = make_stream(live)
    sent = init() + fragment(0, 2) + fragment(20, 2)
    assert client.patch(0, sent, len(sent)).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False, True]


def test_long_fragments_have_their_true_length_in_the_list(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 9. And no key frame is promised at the start of each segment."""
    client = make_stream(live)
    sent = init() + fragment(0, 5) + fragment(5, 5)
    assert client.patch(0, sent, len(sent)).status_code == 204
    text = read_list(library, client).raise_for_status().text
    assert [entry.seconds for entry in check_playlist(text, overlong=True).entries] == [5, 5]
    assert "INDEPENDENT-SEGMENTS" not in text


def test_a_sender_that_had_no_fragment_yet_may_begin_with_other_media(live: ServiceProcess) -> None:
    client = make_stream(live, takeover=True)
    assert client.patch(0, init(codec=b"avc3")).status_code == 204
    source = client.begin().headers["location"].partition("?")[2]
    assert client.patch(0, init() + fragment(0, 2), query=f"?{source}").status_code == 204
    assert client.get()["segments"] == 1


def test_a_gap_in_audio_of_more_than_a_second_is_a_discontinuity(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 15; each request goes on from what is stored."""
    client = make_stream(live)
    offset = 0
    for piece in (init(), fragment(0, 2), fragment(2, 2, tracks=(VIDEO,)), fragment(4, 2), fragment(6, 2)):
        assert client.patch(offset, piece).status_code == 204
        offset += len(piece)
    client.end()
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False, False, True, False]


def test_while_the_picture_pauses_the_list_goes_on_with_the_sound(
    live: ServiceProcess, library: ServiceProcess
) -> None:
    """Row 16, of a screen that shows nothing new: each request goes on from what is stored."""
    client = make_stream(live)
    sound = [fragment(4 + at, 1, tracks=(AUDIO,)) for at in range(12)]
    sent = [init(), fragment(0, 2), fragment(2, 2), *sound]
    offset = 0
    for piece in sent:
        assert client.patch(offset, piece).status_code == 204
        offset += len(piece)
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert sum(entry.seconds for entry in listed.entries) >= 14, "it is listed while the picture pauses"
    assert client.get()["state"] == "live"
    assert client.patch(offset, back := fragment(16, 2)).status_code == 204
    client.end()
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.seconds for entry in listed.entries] == [2] * 9
    assert not any(entry.discontinuity for entry in listed.entries)
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(b"".join([*sent, back]))


def test_a_picture_that_stands_still_is_taken_as_ffmpeg_sends_it(
    live: ServiceProcess, library: ServiceProcess, ffmpeg: str, tmp_path: Path
) -> None:
    """Row 16: ten seconds without a new frame, and sound all the time; every frame of both is in the list and in the file."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc=size=160x90:rate=25:duration=20"]
    command += ["-f", "lavfi", "-i", "sine=r=48000:duration=20", "-vf", "select='lt(t,4)+gte(t,14)'", "-vsync", "vfr"]
    sent = subprocess.check_output([*command, *FRAGMENTED_MP4_TO_STDOUT], timeout=60)
    client = make_stream(live)
    assert client.patch(0, sent, len(sent)).status_code == 204
    url = f"{library.url}/live/{client.id}/media.m3u8"
    listed = check_playlist(httpx.get(url).raise_for_status().text, overlong=True).entries
    assert not any(entry.discontinuity for entry in listed)
    assert sum(entry.seconds for entry in listed) == pytest.approx(20, abs=0.1)
    (path := tmp_path / "recording.mp4").write_bytes(read_file(library, client))
    (tmp_path / "sent.mp4").write_bytes(sent)
    for track in ("0:v", "0:a"):
        read = [ffmpeg, "-v", "error", "-nostdin", "-i", "", "-map", track, "-f", "framemd5", "-"]
        digests = []
        for source in (str(tmp_path / "sent.mp4"), str(path), url):
            read[5] = source
            found = subprocess.check_output(read, timeout=60, text=True).splitlines()
            digests.append([line.rpartition(",")[2] for line in found if not line.startswith("#")])
        assert digests[0] == digests[1] == digests[2]
        assert len(digests[0]) > 200


def test_a_list_is_as_long_as_its_file(live: ServiceProcess, library: ServiceProcess) -> None:
    """The sender's fragments have gaps of 40 ms, which are part of the durations."""
    client = make_stream(live)
    sent = init() + b"".join(fragment(number * 1.04, 1, key=number % 2 == 0) for number in range(9))
    assert client.patch(0, sent, len(sent)).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert sum(entry.seconds for entry in listed.entries) == pytest.approx(8 * 1.04 + 1, abs=0.001)
    assert read_facts(read_file(library, client)) == pytest.approx(8 * 1.04 + 1, abs=0.002)


def read_facts(data: bytes) -> float | None:
    """The duration that a file states, in seconds."""
    scanner = FactsScanner()
    scanner.feed(data)
    facts = scanner.finish(len(data))
    return None if facts is None else facts.duration
