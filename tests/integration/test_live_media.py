"""Odd media sent to a live service: what is listed, what begins an epoch, what is refused before anything is listed."""

import struct

import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import AUDIO, VIDEO, box, fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import make_stream, media_of, read_file, read_list
from tests.support.processes import ServiceProcess


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


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(init(timescale=0), 415, id="8 a timescale of 0"),
        pytest.param(init() + fragment((1 << 62) / 90_000, 1), 400, id="8 a base time that is huge"),
        pytest.param(init() + fragment(0, 47_000), 400, id="8 a duration that is huge"),
        pytest.param(init() + many(32, key=False), 400, id="10 no key frame within 30 s"),
        pytest.param(init(codec=b"encv"), 415, id="14 encrypted"),
        pytest.param(struct.pack(">I4sQ", 1, b"moov", 1 << 62), 415, id="35 a box of 2^62 bytes"),
        pytest.param(init() + struct.pack(">I4sQ", 1, b"mdat", 1 << 62), 400, id="35 an mdat of 2^62 bytes"),
        pytest.param(init() + struct.pack(">I4s", 7, b"moof"), 400, id="35 a box that is shorter than its header"),
        pytest.param(box(b"moov", deep(2000)), 415, id="35 nested boxes"),
        pytest.param(box(b"ftyp", bytes(1 << 20)), 415, id="35 a large ftyp"),
    ],
)
def test_what_is_refused_before_anything_is_listed(live: ServiceProcess, sent: bytes, status: int) -> None:
    client = make_stream(live)
    answer = client.patch(0, sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    described = client.get()
    assert (described["state"], described["segments"], described["bytes"]) == ("waiting", 0, BLOCK_SIZE)


def test_a_jump_is_a_discontinuity_in_the_list(live: ServiceProcess, library: ServiceProcess) -> None:
    """The sender's time goes on 18 s later: the file's time has no hole."""
    client = make_stream(live)
    sent = init() + fragment(0, 2) + fragment(20, 2)
    assert client.patch(0, sent, len(sent)).status_code == 204
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False, True]


def test_long_fragments_have_their_true_length_in_the_list(live: ServiceProcess, library: ServiceProcess) -> None:
    """And no key frame is promised at the start of each segment."""
    client = make_stream(live)
    sent = init() + fragment(0, 5) + fragment(5, 5)
    assert client.patch(0, sent, len(sent)).status_code == 204
    text = read_list(library, client).raise_for_status().text
    assert [entry.seconds for entry in check_playlist(text, overlong=True).entries] == [5, 5]
    assert "INDEPENDENT-SEGMENTS" not in text
