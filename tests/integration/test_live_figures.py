"""What is counted of long live streams: requests of a rewind, of a length and of a seek, bytes that are stored, and memory.

`tests.bench.live_recordings` has the times that belong to them. What the lists of a day hold of each segment is measured by
`tests/unit/stream/live/test_stream_loader.py`.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pymongo
import pytest

from tests.support.databases import FilesFolder, ServerProcess, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.http_reads import read_length, read_picture
from tests.support.live_client import LiveClient, make_stream, probe
from tests.support.live_replicas import store_settings
from tests.support.long_streams import SampleMedia, encode_sample, write_stream
from tests.support.process_stats import anonymous_memory
from tests.support.processes import ServiceProcess, run_service
from tests.support.programs import require_program
from tests.support.sizes import MIB
from tests.support.waiting import eventually

DATABASE = "test_live_figures"
SHORT, LONG = 600, 4 * 3600
LENGTHS = (SHORT, pytest.param(LONG, marks=pytest.mark.long))
SEGMENTS_OF_AN_HOUR = 1800
BYTES_OF_A_LISTED_SEGMENT = 400
"""Of the index and the text of a list, as the stream service keeps them."""
pytestmark = pytest.mark.parametrize("kind", ["gridfs-", "files"], scope="module")


@dataclass
class Recordings:
    """One store with a live service and a stream service."""

    server: ServerProcess
    database: str
    live: ServiceProcess
    stream: ServiceProcess
    media: SampleMedia

    def record(self, seconds: int) -> tuple[LiveClient, int]:
        """Make a stream of the given duration in seconds. Returns it and the number of bytes sent."""
        client = make_stream(self.live)
        settings = store_settings(self.server, self.database)
        return client, asyncio.run(write_stream(settings, client.id, self.media, seconds))

    def stored_bytes(self) -> int:
        """Bytes of everything in the store; without what a server reserves ahead."""
        if isinstance(self.server, FilesFolder):
            return sum(path.stat().st_size for path in self.server.data_dir.rglob("*") if path.is_file())
        with pymongo.MongoClient[dict[str, object]](self.server.url) as mongo:
            figures = mongo[self.database].command("dbStats")
            return int(figures["dataSize"]) + int(figures["indexSize"])

    def file_url(self, client: LiveClient) -> str:
        query = {"folder": client.get()["folder"], "filename": client.get()["filename"]}
        return f"{self.stream.url}/file/stream?{urlencode(query)}"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleMedia:
    require_program("ffmpeg", "ffmpeg")
    return encode_sample(tmp_path_factory.mktemp("sample"))


@contextlib.contextmanager
def run_recordings(
    server: ServerProcess, redis_url: str, database: str, media: SampleMedia, folder: Path
) -> Iterator[Recordings]:
    """Services on a new database."""
    more = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0", "GRIDCAST_LIVE_MAX_DURATION": "100000"}
    env = storage_env(server, redis_url, database, **more)
    with (
        run_service("services.live", folder, env) as live,
        run_service("services.stream", folder, env) as stream,
    ):
        yield Recordings(server, database, live, stream, media)


@pytest.fixture(scope="module")
def server(kind: str, mongod: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    return mongod if kind == "gridfs-" else FilesFolder(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def recordings(
    server: ServerProcess, redis_server: ServerProcess, sample: SampleMedia, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recordings]:
    with run_recordings(server, redis_server.url, DATABASE, sample, tmp_path_factory.mktemp("figures")) as running:
        yield running


@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_rewind_to_the_start_takes_two_requests(recordings: Recordings, seconds: int, tmp_path: Path) -> None:
    """One for the whole list, one for the first segment; who watches has the initialisation segment."""
    client, _ = recordings.record(seconds)
    base = f"{recordings.stream.url}/live/{client.id}"
    init = httpx.get(f"{base}/0/init.mp4").raise_for_status().content
    listing = httpx.get(f"{base}/media.m3u8").raise_for_status()
    entries = check_playlist(listing.text).entries
    assert sum(entry.seconds for entry in entries) == pytest.approx(seconds, abs=0.1)
    segment = httpx.get(f"{base}/{entries[0].uri}").raise_for_status()
    (path := tmp_path / "start.mp4").write_bytes(init + segment.content)
    assert probe(path)["streams"][0]["nb_read_frames"] == "50"


@pytest.mark.parametrize("seconds", LENGTHS)
def test_a_recording_tells_its_length_in_one_request_and_seeks_in_three(
    recordings: Recordings, seconds: int, tmp_path: Path
) -> None:
    client, _ = recordings.record(seconds)
    assert client.end()["state"] == "ended"
    url = recordings.file_url(client)
    ffprobe = require_program("ffprobe", "ffmpeg")
    (path := tmp_path / "beginning.mp4").write_bytes(httpx.get(url, headers={"range": "bytes=0-262143"}).content)
    assert float(read_length(ffprobe, str(path)).output) == pytest.approx(seconds, abs=0.1)
    length = read_length(ffprobe, url)
    assert float(length.output) == pytest.approx(seconds, abs=0.1)
    # Players read the first fragment as well; that of a short recording is behind padding that they skip by another request.
    padding = seconds < LONG
    assert length.requests == 1 + padding
    picture = read_picture(require_program("ffmpeg", "ffmpeg"), url, seconds / 2)
    shown = int(picture.output.splitlines()[-1].split(",")[2]) / 25
    assert shown == pytest.approx(seconds / 2, abs=0.05)
    assert picture.requests <= 3 + padding
    assert max(length.bytes_read, picture.bytes_read) < MIB


def test_what_is_stored_of_a_recording_is_at_most_1_01_of_its_media(
    server: ServerProcess, redis_server: ServerProcess, tmp_path: Path
) -> None:
    """All collections with their indexes, or all files with the database; the reserved header is part of it."""
    media = encode_sample(tmp_path, filler=MIB)
    with run_recordings(server, redis_server.url, f"{DATABASE}_bytes", media, tmp_path) as recordings:
        before = recordings.stored_bytes()
        client, sent = recordings.record(128)
        assert client.end()["state"] == "ended"
    assert sent > 64 * MIB
    assert sent <= recordings.stored_bytes() - before <= 1.01 * sent


@pytest.mark.parametrize(
    "hours", [(0.25, 0.5), pytest.param((1, 6, 12, 24), marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_memory_stays_flat_along_a_stream(recordings: Recordings, hours: tuple[float, ...]) -> None:
    """Of the live service, whatever the stream's length; of the stream service but for the index and the text of the list.

    The publisher sends one request body of fragments of two seconds without pacing. At each mark the viewer requests the whole
    playlist, a delta update and a sliding window.
    """
    client = make_stream(recordings.live)
    address = f"{recordings.stream.url}/live/{client.id}/media.m3u8"
    marks = [round(one * SEGMENTS_OF_AN_HOUR) for one in hours]
    held: list[tuple[int, int]] = []

    def look(count: int) -> None:
        eventually(lambda: client.get()["segments"] == count, 60, "all segments are listed")
        eventually(lambda: httpx.get(address, headers={"accept-encoding": "identity"}).text.count("#EXTINF") == count)
        for query in ("", "?_HLS_skip=YES", "?window=600"):
            httpx.get(address + query).raise_for_status()
        assert len(httpx.get(f"{address}?_HLS_skip=YES").content) < 4 * 1024
        with httpx.stream("GET", address, headers={"accept-encoding": "gzip"}) as answer:
            assert sum(map(len, answer.iter_raw())) < 400 * 1024
        held.append((anonymous_memory(recordings.live.pid), anonymous_memory(recordings.stream.pid)))

    def body() -> Iterator[bytes]:
        yield init()
        for number in range(marks[-1]):
            yield fragment(2 * number, 2)
            if number + 1 in marks:
                look(number + 1)

    assert client.post(body()).status_code == 204
    print(f"live and stream service, MiB after {hours} h:", [tuple(one // MIB for one in pair) for pair in held])
    listed = BYTES_OF_A_LISTED_SEGMENT * (marks[-1] - marks[0])
    assert held[-1][0] - held[0][0] < 8 * MIB
    assert held[-1][1] - held[0][1] < listed + 16 * MIB, "and the texts of the answers"
    assert client.end()["segments"] == marks[-1]
