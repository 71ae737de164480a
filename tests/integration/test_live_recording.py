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
from services.common.live.cuts import Cut
from services.common.live.cutter import Cutter
from services.common.live.fragment_reader import Fragment, FragmentReader
from services.common.live.header import render_header
from services.common.live.initialisation import read_init
from services.common.live.playlist import Playlist
from services.common.live.segments import Epoch, Segment
from services.common.store.growing_files import file_etag
from services.common.store.live_store import LivePosition, LiveProgress, LiveStream
from services.common.store.upload_store import StoredFile, UploadHandle
from tests.support.hls_rules import check_playlist
from tests.support.live_streams import begin_stream
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import StoreAdapters

pytestmark = pytest.mark.anyio


class Recorder:
    """Writes one sender's stream. The position is stored at the end of each segment; what follows it is kept in memory."""

    def __init__(self, adapters: StoreAdapters, upload: UploadHandle, tail: bytes = b"") -> None:
        self._store = adapters.store
        self._live = adapters.live
        self._tail = tail
        self._epochs: tuple[Epoch, ...] = ()
        self.upload = upload
        self.cutter = Cutter(2, CHUNK_SIZE)
        self.reader = FragmentReader()
        self.stored = -1

    def resume(self, stream: LiveStream, last: Segment, *, continues: bool) -> None:
        """Go on behind the stored position, with the same sender or another one."""
        self.stored = last.number
        self.cutter.resume(stream.epochs[-1], last, continues=continues)
        if continues:
            self.reader = FragmentReader(read_init(stream.epochs[-1].init))

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
        self._epochs += cut.epochs
        for segment in cut.segments:
            end = segment.offset + segment.size
            assert end == self.cutter.position
            while len(self._tail) >= CHUNK_SIZE:
                first = (end - len(self._tail)) // CHUNK_SIZE
                await self._store.write_blocks(self.upload, first, [self._tail[:CHUNK_SIZE]])
                self._tail = self._tail[CHUNK_SIZE:]
            await self._store.set_offset(self.upload, end, self._tail, None, keep_lease=True, durable=True)
            position = LivePosition(end, self.reader.consumed, segment.number)
            progress = LiveProgress(position, self._epochs, [segment])
            await self._live.advance("s", self.upload.fencing_token, progress)
            self._epochs, self.stored = (), segment.number


async def acquire(adapters: StoreAdapters, upload: UploadHandle, *, continues: bool) -> Recorder:
    """Another process continues: it has what is stored, and nothing else."""
    acquired = await adapters.store.acquire(upload.upload_id)
    assert isinstance(acquired, tuple)
    handle, state = acquired
    stream = await adapters.live.set_publisher("s", handle.fencing_token, "another process")
    assert state.offset == stream.position.offset
    (last,) = await adapters.live.read_segments("s", stream.position.last_segment)
    recorder = Recorder(adapters, handle, state.tail)
    recorder.resume(stream, last, continues=continues)
    return recorder


@pytest.fixture
def sample_bytes(live_sample: Path) -> bytes:
    return live_sample.read_bytes()


async def test_a_live_stream_is_read_while_it_grows_and_is_a_file_at_its_end(
    adapters: StoreAdapters, sample_bytes: bytes, tmp_path: Path
) -> None:
    """Written by a process for each segment; then a second sender makes another epoch."""
    sent = sample_bytes
    upload = await begin_stream(adapters)
    recorder = Recorder(adapters, upload)
    begun_at = position = 0
    while position < len(sent):
        listed = recorder.stored
        piece = sent[position : position + 5000]
        await recorder.feed(piece, 1_800_000_000.0)
        position += len(piece)
        if recorder.stored == listed:
            continue
        begun_at = position = begun_at + recorder.reader.consumed  # the sender goes on at the durable offset
        late, recorder = recorder, await acquire(adapters, upload, continues=True)
        with pytest.raises(Conflict):  # the first process wakes up
            await adapters.growing.place_header(late.upload, bytes(CHUNK_SIZE))
    await recorder.end()
    recorder = await acquire(adapters, upload, continues=False)
    await recorder.feed(sent, 1_800_000_100.0)
    await recorder.end()

    stream = await adapters.live.get_stream("s")
    assert stream is not None
    segments = await adapters.live.read_segments("s", 0)
    assert len(segments) == 12
    assert [each.number for each in stream.epochs] == [0, 1]
    playlist = Playlist(2)
    playlist.add_epoch(stream.epochs[0])
    for segment in segments:
        if segment.number == 6:
            assert segment.epoch == 1
            playlist.add_epoch(stream.epochs[1])
        playlist.append(segment)
        found = await adapters.growing.read_durable(upload.upload_id, segment.offset, segment.size)
        assert found is not None
        (path := tmp_path / "segment.mp4").write_bytes(stream.epochs[segment.epoch].init + found.data)
        assert probe(path)["streams"][0]["nb_read_frames"] == "50"
        if playlist.is_listable:
            check_playlist(playlist.render())

    header = render_header(read_init(stream.epochs[0].init), segments, CHUNK_SIZE)
    await adapters.growing.place_header(recorder.upload, header)
    length = segments[-1].offset + segments[-1].size
    stored_file = StoredFile(length, "video/mp4", None, file_etag(recorder.upload, length))
    info = (await adapters.store.commit(recorder.upload, stored_file)).info
    assert await adapters.live.find_file(stream) == info
    data = b"".join(await adapters.reader.read_blocks(info, 0, length // CHUNK_SIZE))
    assert len(data) == length
    assert all(before.offset + before.size == after.offset for before, after in pairwise(segments))
    for first in range(0, length // CHUNK_SIZE, 3):
        blocks = await adapters.reader.read_blocks(info, first, first + 1)
        assert b"".join(blocks) == data[first * CHUNK_SIZE : (first + 2) * CHUNK_SIZE]
    (path := tmp_path / "recording.mp4").write_bytes(data)
    said = probe(path)
    assert float(said["format"]["duration"]) == pytest.approx(24, abs=0.1)
    assert said["streams"][0]["nb_read_frames"] == "600"


def probe(path: Path) -> Any:
    """What ffprobe reads, every frame decoded."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-count_frames", "-select_streams", "v"]
    command += ["-show_entries", "format=duration:stream=nb_read_frames", str(path)]
    return json.loads(subprocess.check_output(command, timeout=60))
