"""Publishers that go on with another sample description: each has a file of its own, in one list and at the same addresses."""

import itertools

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import MAX_RECORDINGS
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import Entry, apply_delta, check_playlist, check_reload
from tests.support.live_client import LiveClient, make_stream, media_of, read_file, read_list
from tests.support.processes import ServiceProcess
from tests.support.waiting import eventually

TURNED = init(size=(90, 160))
FIRST = (init(), *(fragment(2 * at, 2) for at in range(4)))
SECOND = (TURNED, *(fragment(7 + 2 * at, 2, fill=200) for at in range(4)))
THIRD = (init(), *(fragment(2 * at, 2) for at in range(3)))


class Sender:
    """A publisher that sends pieces by one of the ways in."""

    def __init__(self, client: LiveClient, way: str) -> None:
        self.client = client
        self._way = way
        self._offset = 0
        self._count = 0

    def send(self, pieces: tuple[bytes, ...]) -> None:
        if self._way == "objects":
            for piece in pieces:
                self._count += 1
                assert self.client.put(f"{self._count}.m4s", piece).status_code == 200
            return
        data = b"".join(pieces)
        if self._way == "body":
            assert self.client.post(data).status_code == 204
            return
        cut = len(data) // 3  # in the middle of a fragment
        for piece in (data[:100], data[100:cut], data[cut:]):
            assert self.client.patch(self._offset, piece).status_code == 204
            self._offset += len(piece)
            assert int(self.client.head().headers["upload-offset"]) == self._offset


def read_lists(library: ServiceProcess, client: LiveClient, query: str = "") -> str:
    answer = httpx.get(f"{library.url}/live/{client.id}/media.m3u8{query}", timeout=30).raise_for_status()
    return answer.text


def lists_of(library: ServiceProcess, client: LiveClient, segments: int) -> tuple[str, str]:
    """The whole list and a window, once the stream service has heard of the segments."""

    def has_heard() -> bool:
        answer = read_list(library, client)
        return answer.status_code == 200 and answer.text.count("#EXTINF") == segments

    eventually(has_heard, 10, f"{segments} segments are listed")
    return read_lists(library, client), read_lists(library, client, "?window=10")


def map_of(entry: Entry) -> str:
    return entry.map.removeprefix('URI="').removesuffix('"')


def read_segments(library: ServiceProcess, client: LiveClient) -> dict[str, bytes]:
    """All segments of a list, by their initialisation segments."""
    root, found, current = f"{library.url}/live/{client.id}/", dict[str, bytes](), ""
    for entry in check_playlist(read_lists(library, client)).entries:
        current = map_of(entry) or current
        data = httpx.get(root + entry.uri, timeout=30).raise_for_status().content
        found[current] = found.get(current, b"") + data
    return found


@pytest.mark.parametrize("way", ["tus", "body", "objects"])
def test_another_sample_description_begins_another_file(
    live: ServiceProcess, library: ServiceProcess, way: str
) -> None:
    """Row 12."""
    client = make_stream(live)
    name = client.get()["filename"].removesuffix(".mp4")
    names = [f"{name}.mp4", f"{name} (2).mp4", f"{name} (3).mp4"]
    sender = Sender(client, way)
    sender.send(FIRST)
    lists = [lists_of(library, client, 4)]
    assert client.get()["files"] == []
    sender.send(SECOND)
    described = client.get()
    assert (described["state"], described["file"], len(described["files"])) == ("live", None, 1)
    lists.append(lists_of(library, client, 8))
    assert read_file(library, client, names[0])[BLOCK_SIZE:] == media_of(b"".join(FIRST))
    sender.send(THIRD)
    lists.append(lists_of(library, client, 11))
    delta = read_lists(library, client, "?_HLS_msn=9&_HLS_skip=YES")
    assert apply_delta(lists[2][0], delta) == lists[2][0]
    for (before, window_before), (after, window) in itertools.pairwise(lists):
        check_reload(before, after)
        check_reload(window_before, window)
    while_live = read_segments(library, client)
    described = client.end()
    assert (described["state"], described["duration"], described["segments"]) == ("ended", 22, 11)
    assert [file["filename"] for file in described["files"]] == names
    assert described["file"] == described["files"][-1]
    assert described["bytes"] == sum(file["length"] for file in described["files"])
    eventually(lambda: "ENDLIST" in read_lists(library, client), 10, "the end is listed")
    text = read_lists(library, client)
    check_reload(lists[2][0], text)
    listed = check_playlist(text)
    assert [entry.discontinuity for entry in listed.entries] == [number in {4, 8} for number in range(11)]
    assert [map_of(entry) for entry in listed.entries if entry.map] == [f"{number}/init.mp4" for number in range(3)]
    for number, sent in enumerate((FIRST, SECOND, THIRD)):
        init_segment = httpx.get(f"{library.url}/live/{client.id}/{number}/init.mp4").raise_for_status().content
        assert init_segment == sent[0]
        file = read_file(library, client, names[number])
        assert file[BLOCK_SIZE:] == media_of(b"".join(sent))
        assert b"sidx" in file[:BLOCK_SIZE]
        assert read_segments(library, client)[f"{number}/init.mp4"] == file[BLOCK_SIZE:]
    assert list(while_live.values()) == list(read_segments(library, client).values())


def test_other_media_goes_on_by_another_source(live: ServiceProcess, library: ServiceProcess) -> None:
    """A body that is sent anew, whose media has other tracks than the one before it."""
    client = make_stream(live)
    assert client.post(b"".join(FIRST)).status_code == 204
    alone = init(video=False) + b"".join(fragment(2 * at, 2, tracks=(2,)) for at in range(4))
    assert client.post(alone, "?end=1").status_code == 204
    described = client.get()
    assert (described["state"], described["reason"], len(described["files"])) == ("ended", "complete", 2)
    assert read_file(library, client, described["files"][1]["filename"])[BLOCK_SIZE:] == media_of(alone)
    check_playlist(read_lists(library, client))


def test_an_end_right_after_a_change_is_that_of_the_file_before(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.patch(0, b"".join((*FIRST, TURNED))).status_code == 204
    described = client.end()
    assert (described["segments"], described["duration"], len(described["files"])) == (4, 8, 1)
    assert described["file"] == described["files"][0]
    assert described["bytes"] == described["file"]["length"]
    assert lists_of(library, client, 4)
    eventually(lambda: check_playlist(read_lists(library, client)).ended, 10, "the end is listed")
    assert read_segments(library, client)["0/init.mp4"] == media_of(b"".join(FIRST))


def test_descriptions_that_no_fragment_follows_make_no_files(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    sent = [init(size=(2 * size, 90)) for size in range(1, 5)]
    assert client.patch(0, b"".join(sent)).status_code == 204
    offset = len(b"".join(sent))
    assert client.patch(offset, b"".join(FIRST)).status_code == 204
    offset += len(b"".join(FIRST))
    assert client.patch(offset, b"".join((*sent, *SECOND)), offset + len(b"".join((*sent, *SECOND)))).status_code == 204
    described = client.get()
    assert [file["length"] for file in described["files"]] == [
        BLOCK_SIZE + len(media_of(b"".join(sent))) for sent in (FIRST, SECOND)
    ]
    check_playlist(read_lists(library, client))


def test_a_stream_that_is_thrown_away_keeps_what_is_a_file(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.patch(0, b"".join((*FIRST, *SECOND))).status_code == 204
    (file,) = client.get()["files"]
    assert httpx.delete(f"{client.url}/live/{client.id}", timeout=30).status_code == 204
    assert client.head().status_code == 410
    assert read_list(library, client).status_code == 404
    query = {"folder": "", "filename": file["filename"]}
    answer = httpx.get(f"{library.url}/file/stream", params=query, timeout=30).raise_for_status()
    assert answer.content[BLOCK_SIZE:] == media_of(b"".join(FIRST))


def test_messages_keep_their_places_over_files(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    assert client.patch(0, b"".join((*FIRST, *SECOND))).status_code == 204
    for name, at in (("a", 3.0), ("b", 8.0), ("c", 9.5), ("d", 1000.0)):
        message = {"type": "chat.said", "data": {}, "id": name, "at": at}
        answer = httpx.post(f"{client.url}/live/{client.id}/messages", json=message, timeout=30).raise_for_status()
        assert answer.json()["epoch"] == (0 if name == "a" else 1)
    client.end()
    found = httpx.get(f"{library.url}/live/{client.id}/messages", timeout=30).raise_for_status().json()["messages"]
    assert [(one["message"], one["time"]) for one in found] == [("a", 3), ("b", 8), ("c", 9.5), ("d", 16)]


def test_files_of_a_stream_are_bounded(live: ServiceProcess, library: ServiceProcess) -> None:
    client = make_stream(live)
    parts = [init(size=(2 * number, 90)) + fragment(0, 2) for number in range(1, MAX_RECORDINGS + 2)]
    answer = client.post(b"".join(parts))
    assert (answer.status_code, "make another stream" in answer.json()["detail"]) == (415, True)
    described = client.get()
    assert (described["state"], described["reason"]) == ("ended", "media changed")
    assert (len(described["files"]), described["segments"]) == (MAX_RECORDINGS, MAX_RECORDINGS)
    check_playlist(lists_of(library, client, MAX_RECORDINGS)[0])


def test_a_second_rendition_is_refused_and_the_stream_goes_on(live: ServiceProcess) -> None:
    """As a DASH muxer sends them: each kind of media by objects of its own."""
    client = make_stream(live)
    assert client.put("init-0.m4s", init(audio=False)).status_code == 200
    assert client.put("init-1.m4s", init(video=False)).status_code == 415
    assert client.put("0.m4s", fragment(0, 2, tracks=(1,))).status_code == 200
    assert client.put("init-1.m4s", init(video=False)).status_code == 415
    described = client.get()
    assert (described["state"], described["segments"], described["files"]) == ("live", 1, [])
