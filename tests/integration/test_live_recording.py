"""A live stream as it will be stored: cut, read while it grows, continued by a second writer, ended as a file that seeks at once.

Over every store, with what ffmpeg sends. The writer here is the smallest one possible: a block at a time, no batches.
"""

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Conflict
from services.common.live.cutter import Cut, Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.header import render_header
from services.common.live.initialisation import read_init
from services.common.live.playlist import Playlist
from services.common.live.segments import Epoch, Segment
from services.common.store.growing_files import file_etag
from services.common.store.upload_store import NewUpload, StoredFile, UploadHandle
from tests.support.hls_rules import check_playlist
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, StoreAdapters

pytestmark = pytest.mark.anyio


class Recording:
    """What is stored beside the bytes: epochs and segments."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.segments: list[Segment] = []


class Recorder:
    """Writes one sender's stream. The offset is set at the end of each segment; what follows it is kept in memory."""

    def __init__(self, adapters: StoreAdapters, upload: UploadHandle, recording: Recording, tail: bytes) -> None:
        self._store = adapters.store
        self._recording = recording
        self._tail = tail
        self.upload = upload
        self.cutter = Cutter(2, CHUNK_SIZE)
        self.reader = FragmentReader()
        if recording.segments:
            self.cutter.resume(recording.epochs[-1], recording.segments[-1], continues=True)
            self.reader = FragmentReader(read_init(recording.epochs[-1].init))

    async def feed(self, data: bytes, now: float) -> None:
        """Take bytes of the sender."""
        for unit in self.reader.feed(data):
            if isinstance(unit, Fragment):
                await self._write(self.cutter.add(unit, now))
            else:
                await self._write(self.cutter.set_init(unit))

    async def end(self) -> None:
        """Close the last segment, and write the last, short block."""
        await self._write(self.cutter.end())
        if self._tail:
            await self._store.write_blocks(self.upload, self.cutter.position // CHUNK_SIZE, [self._tail])

    async def _write(self, cut: Cut) -> None:
        self._tail += cut.data
        self._recording.epochs += cut.epochs
        for segment in cut.segments:
            end = segment.offset + segment.size
            assert end == self.cutter.position
            while len(self._tail) >= CHUNK_SIZE:
                first = (end - len(self._tail)) // CHUNK_SIZE
                await self._store.write_blocks(self.upload, first, [self._tail[:CHUNK_SIZE]])
                self._tail = self._tail[CHUNK_SIZE:]
            await self._store.set_offset(self.upload, end, self._tail, None, keep_lease=True, durable=True)
            self._recording.segments.append(segment)


async def acquire(adapters: StoreAdapters, upload: UploadHandle, recording: Recording) -> Recorder:
    """Another process continues: it has the store's state and the stored segments."""
    acquired = await adapters.store.acquire(upload.upload_id)
    assert isinstance(acquired, tuple)
    last = recording.segments[-1]
    assert acquired[1].offset == last.offset + last.size
    return Recorder(adapters, acquired[0], recording, acquired[1].tail)


@pytest.fixture
def sample_bytes(live_sample: Path) -> bytes:
    return live_sample.read_bytes()


async def test_a_live_stream_is_read_while_it_grows_and_is_a_file_at_its_end(
    adapters: StoreAdapters, sample_bytes: bytes, tmp_path: Path
) -> None:
    sent, recording = sample_bytes, Recording()
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    recorder = Recorder(adapters, upload, recording, b"")
    begun_at = position = listed = 0
    while position < len(sent):
        piece = sent[position : position + 5000]
        await recorder.feed(piece, 1_800_000_000.0)
        position += len(piece)
        if len(recording.segments) == listed:
            continue
        listed = len(recording.segments)
        begun_at = position = begun_at + recorder.reader.consumed  # the sender goes on at the durable offset
        late, recorder = recorder, await acquire(adapters, upload, recording)
        with pytest.raises(Conflict):  # the first process wakes up
            await adapters.growing.place_header(late.upload, bytes(CHUNK_SIZE))
    await recorder.end()

    segments = recording.segments
    assert len(segments) == 6
    assert len(recording.epochs) == 1
    playlist = Playlist(2)
    playlist.add_epoch(recording.epochs[0])
    for segment in segments:
        playlist.append(segment)
        found = await adapters.growing.read_durable(upload.upload_id, segment.offset, segment.size)
        assert found is not None
        (path := tmp_path / "segment.mp4").write_bytes(recording.epochs[0].init + found.data)
        assert probe(path)["streams"][0]["nb_read_frames"] == "50"
        if playlist.is_listable:
            check_playlist(playlist.render())

    header = render_header(read_init(recording.epochs[0].init), segments, CHUNK_SIZE)
    await adapters.growing.place_header(recorder.upload, header)
    length = segments[-1].offset + segments[-1].size
    stored_file = StoredFile(length, "video/mp4", None, file_etag(recorder.upload, length))
    info = (await adapters.store.commit(recorder.upload, stored_file)).info
    data = b"".join(await adapters.reader.read_blocks(info, 0, length // CHUNK_SIZE))
    assert len(data) == length
    assert all(before.offset + before.size == after.offset for before, after in pairwise(segments))
    (path := tmp_path / "recording.mp4").write_bytes(data)
    said = probe(path)
    assert float(said["format"]["duration"]) == pytest.approx(12, abs=0.1)
    assert said["streams"][0]["nb_read_frames"] == "300"


def probe(path: Path) -> Any:
    """What ffprobe reads, every frame decoded."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-count_frames", "-select_streams", "v"]
    command += ["-show_entries", "format=duration:stream=nb_read_frames", str(path)]
    return json.loads(subprocess.check_output(command, timeout=60))
