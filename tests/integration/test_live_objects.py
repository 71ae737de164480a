"""Live streams as objects of a muxer: order, repetition, what is missing, lists, and ffmpeg's own muxers of HLS and DASH."""

import concurrent.futures
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import VIDEO, box, fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import LiveClient, make_stream, media_of, probe, read_file, read_list
from tests.support.processes import ServiceProcess, run_service
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def second(live_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Another replica."""
    with run_service("services.live", tmp_path_factory.mktemp("second"), live_env) as service:
        yield service


def send(client: LiveClient, *objects: bytes) -> list[int]:
    """Send an initialisation segment and objects one after another; returns the statuses."""
    return [client.put(f"{number}.m4s", data).status_code for number, data in enumerate(objects)]


def test_objects_at_two_replicas_are_one_stream(
    live: ServiceProcess, second: ServiceProcess, library: ServiceProcess
) -> None:
    client = make_stream(live)
    objects = [init(), *(box(b"styp", b"msdh") + box(b"sidx", bytes(24)) + fragment(at, 1) for at in range(6))]
    for number, data in enumerate(objects):
        client.url = (live, second)[number % 2].url
        assert client.put(f"seg{number}.m4s", data).status_code == 200
    assert client.get()["segments"] == 3
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(b"".join(objects))


def test_an_object_that_is_sent_again_changes_nothing(live: ServiceProcess) -> None:
    """Rows 4 and 13."""
    client = make_stream(live)
    first, second = fragment(10, 2), fragment(12, 2)
    assert send(client, init(), first, first, second, init(), first, second, second) == [200] * 8
    described = client.get()
    assert (described["segments"], described["duration"]) == (2, 4)
    assert described["bytes"] == BLOCK_SIZE + len(first + second)


def test_empty_incomplete_and_early_objects_are_refused(live: ServiceProcess) -> None:
    """Rows 3 and 4."""
    client = make_stream(live)
    assert send(client, b"", fragment(0, 1)) == [400, 412]
    assert send(client, init(), fragment(0, 2)[:-1], b"\x00" * 40) == [200, 400, 400]
    assert (client.get()["state"], client.get()["segments"]) == ("waiting", 0)
    assert client.put("0.ts", b"G").status_code == 415
    assert client.put("..", b"G").status_code in {400, 404}
    assert client.put("a.m4s", fragment(0, 2)).status_code == 200


def test_objects_out_of_order_are_put_in_order(live: ServiceProcess, library: ServiceProcess) -> None:
    """Row 5."""
    client = make_stream(live)
    pieces = [fragment(at, 2) for at in (0, 2, 4)]
    send(client, init(), pieces[0])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        late = pool.submit(client.put, "3.m4s", pieces[2])
        time.sleep(0.3)  # no event says that the first of two waits: it is in order then as well
        assert client.put("2.m4s", pieces[1]).status_code == 200
        assert late.result().status_code == 200
    client.end()
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(init() + b"".join(pieces))


def test_a_missing_object_is_waited_for_and_then_refused(live: ServiceProcess) -> None:
    """Row 5."""
    client = make_stream(live)
    send(client, init(), fragment(0, 2))
    began = time.monotonic()
    assert client.put("2.m4s", fragment(4, 2)).status_code == 200
    assert 2.9 < time.monotonic() - began < 6
    assert client.put("1.m4s", fragment(2, 2)).status_code == 409
    described = client.get()
    assert (described["segments"], described["duration"]) == (2, 4)  # the file has no hole


def test_lists_are_ignored_and_deletions_acknowledged(live: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.put("master.m3u8", b"#EXTM3U\n").status_code == 204
    assert client.put("manifest.mpd", b"").status_code == 204
    assert httpx.delete(f"{live.url}{client.made['objects']}seg1.m4s").status_code == 204
    assert httpx.delete(f"{live.url}/live/{client.id}/media/seg1.m4s").status_code == 401
    assert httpx.post(f"{live.url}{client.made['objects']}i.mp4", content=init()).status_code == 200
    assert client.get()["state"] == "waiting"
    assert client.made["publish_token"] not in live.log


def test_another_way_in_is_another_source(live: ServiceProcess) -> None:
    client = make_stream(live, takeover=True)
    send(client, init(), fragment(0, 2))
    assert client.patch(0, init() + fragment(0, 2)).status_code == 204
    assert client.post(init() + fragment(0, 2)).status_code == 204
    assert send(client, init(), fragment(0, 2)) == [200, 200]
    # ffmpeg does not wait for the answer to its last object.
    eventually(lambda: client.get()["duration"] > 3.9, 10, "the last object is stored")
    described = client.end()
    assert (described["segments"], described["duration"]) == (4, 8)


@pytest.mark.parametrize("muxer", ["hls", "dash"])
def test_ffmpeg_sends_objects(
    live: ServiceProcess, library: ServiceProcess, ffmpeg: str, tmp_path: Path, muxer: str
) -> None:
    client = make_stream(live, target=1)
    command: list[Any] = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi"]
    command += [
        "-re",
        "-i",
        "testsrc=size=160x90:rate=25:duration=4",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "25",
    ]
    command += ["-pix_fmt", "yuv420p", "-http_persistent", "1", "-ignore_io_errors", "1", "-method", "PUT"]
    objects = f"{live.url}{client.made['objects']}"
    if muxer == "hls":
        command += ["-f", "hls", "-hls_time", "1", "-hls_segment_type", "fmp4", "-hls_flags", "delete_segments"]
        command += ["-hls_list_size", "2", "-hls_segment_filename", f"{objects}seg%d.m4s", f"{objects}live.m3u8"]
    else:
        command += ["-f", "dash", "-seg_duration", "1", "-use_template", "1", "-window_size", "2"]
        command += ["-init_seg_name", "init.m4s", "-media_seg_name", "chunk-$Number$.m4s", f"{objects}live.mpd"]
    subprocess.run(command, check=True, timeout=60)
    # ffmpeg does not wait for the answer to its last object.
    eventually(lambda: client.get()["duration"] > 3.9, 10, "the last object is stored")
    described = client.end()
    assert (described["segments"], described["duration"]) == (4, pytest.approx(4, abs=0.1))
    (path := tmp_path / "recording.mp4").write_bytes(read_file(library, client))
    said = probe(path)
    assert said["streams"][0]["nb_read_frames"] == "100"
    assert float(said["format"]["duration"]) == pytest.approx(4, abs=0.1)


def test_tracks_in_objects_of_their_own_are_refused(live: ServiceProcess) -> None:
    """DASH with audio and video sends two initialisation segments, which one file cannot have."""
    client = make_stream(live)
    video, audio = init(audio=False), init(video=False)
    assert send(client, video, fragment(0, 2, tracks=(VIDEO,))) == [200, 200]
    answer = client.put("init-1.m4s", audio)
    assert answer.status_code == 415
    assert "-f hls -hls_segment_type fmp4 in place of -f dash" in answer.json()["detail"], "what to do is said"
    assert client.put("2.m4s", fragment(2, 2, tracks=(VIDEO,))).status_code == 200
    assert client.get()["segments"] == 2
    assert client.get()["state"] == "live"


def test_a_missing_object_is_a_discontinuity(live: ServiceProcess, library: ServiceProcess) -> None:
    """The list says that media is missing."""
    client = make_stream(live)
    send(client, init(), fragment(0, 2))
    assert client.put("2.m4s", fragment(4, 2)).status_code == 200
    client.end()
    listed = check_playlist(read_list(library, client).raise_for_status().text)
    assert [entry.discontinuity for entry in listed.entries] == [False, True]


def test_a_stream_that_waits_has_no_list_and_an_empty_request_adds_nothing(
    live: ServiceProcess, library: ServiceProcess
) -> None:
    """A request that ends between `moof` and `mdat`, and one without bytes."""
    client = make_stream(live)
    sent = init() + fragment(0, 2)[: fragment(0, 2).index(b"mdat") - 4]  # between moof and mdat
    assert client.patch(0, sent).status_code == 204
    assert client.patch(len(sent), b"").status_code == 204
    assert client.get()["segments"] == 0
    assert read_list(library, client).status_code == 404
