"""GET and HEAD /upload/{address}/media.m3u8 on running services: the list grows with the upload and ends with its commit."""

import os
from collections.abc import Iterator

import httpx
import m3u8
import pytest

from services.common.store.play_addresses import make_play_address
from tests.support.fragmented_mp4 import fragment, init
from tests.support.processes import ServiceProcess, run_service
from tests.support.upload_client import TusUpload, tus_metadata
from tests.support.waiting import eventually

INIT = init()
FILL = 150_000
"""Bytes of a sample: fragments lie across the blocks of the store."""
DATA = INIT + b"".join(fragment(5.0 * number, 5, fill=FILL) for number in range(6))
ENDS = [len(DATA) - len(fragment(0, 5, fill=FILL)) * number for number in range(5, -1, -1)]


@pytest.fixture(scope="module")
def stream(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("services.stream", tmp_path_factory.mktemp("stream"), env) as service:
        yield service


@pytest.fixture(scope="module")
def other(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("services.stream", tmp_path_factory.mktemp("other"), env) as service:
        yield service


def begin(upload: ServiceProcess, *, length: int | None = None) -> tuple[TusUpload, str]:
    """A tus upload, and the path of its list."""
    tus = TusUpload(upload)
    headers = {"upload-metadata": tus_metadata(filename=f"{os.urandom(4).hex()}.mp4")}
    tus.create(length=length, headers=headers if length is not None else {**headers, "upload-defer-length": "1"})
    return tus, f"/upload/{make_play_address(tus.path.rpartition('/')[2])}/media.m3u8"


def read_list(stream: ServiceProcess, path: str, segments: int) -> str:
    """Wait for a playlist with the given number of segments, and return it."""

    def read() -> str | None:
        answer = httpx.get(stream.url + path)
        return answer.text if answer.status_code == 200 and answer.text.count("#EXTINF") == segments else None

    return eventually(read, 20, f"{segments} segments are listed")


def test_a_list_grows_with_its_upload(upload: ServiceProcess, stream: ServiceProcess, other: ServiceProcess) -> None:
    tus, path = begin(upload)
    assert httpx.get(stream.url + path).status_code in {404, 503}
    assert tus.patch(0, DATA[: ENDS[2] + 1000]).status_code == 204
    early = read_list(stream, path, 1)
    assert "#EXT-X-ENDLIST" not in early
    assert tus.patch(ENDS[2] + 1000, DATA[ENDS[2] + 1000 : ENDS[4]]).status_code == 204
    later = read_list(stream, path, 3)
    assert later.startswith(early)
    assert read_list(other, path, 3) == later, "each process finds the same"
    segment = m3u8.loads(later).segments[1]
    size, offset = map(int, segment.byterange.split("@"))
    ranged = {"range": f"bytes={offset}-{offset + size - 1}"}
    url = stream.url + path.replace("media.m3u8", segment.uri)
    assert httpx.get(url, headers=ranged).content == DATA[ENDS[0] : ENDS[1]]

    rest = {"upload-length": str(len(DATA))}
    assert tus.patch(ENDS[4], DATA[ENDS[4] :], headers=rest).status_code == 204
    whole = read_list(stream, path, 6)
    assert whole.startswith(later)
    playlist = m3u8.loads(whole)
    assert (playlist.is_endlist, sum(one.duration for one in playlist.segments)) == (True, 30)
    assert httpx.get(url, headers=ranged).content == DATA[ENDS[0] : ENDS[1]]
    answer = httpx.get(stream.url + path)
    assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
    assert answer.headers["cache-control"] == "no-store"
    head = httpx.head(stream.url + path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(answer.content)))


def test_what_has_no_list(upload: ServiceProcess, stream: ServiceProcess) -> None:
    for path in ("/upload/none/media.m3u8", f"/upload/{'0' * 24}-{'0' * 24}-{'0' * 32}/media.m3u8"):
        assert httpx.get(stream.url + path).status_code in {404, 410}
    data = INIT + fragment(0, 11)
    tus, path = begin(upload, length=len(data))
    assert tus.patch(0, data).status_code == 204

    def refused() -> bool:
        answer = httpx.get(stream.url + path)
        return answer.status_code == 404 and "more than 10 s" in answer.json()["detail"]

    eventually(refused, 20, "the reason is said")
    assert httpx.post(stream.url + path).status_code == 405
