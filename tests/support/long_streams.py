"""Live streams of hours, written to a store within seconds: eight encoded seconds whose time goes on, by the service's writer."""

import itertools
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from services.common.containers.boxes import iter_boxes
from services.common.live.initialisation import InitSegment, read_init
from services.common.settings import StoreSettings
from services.common.store.timings import StoreTimings
from services.live.stream_writer import LiveStores, StreamWriter
from tests.support.opened_stores import opened_store

PERIOD_SECONDS = 8
"""A whole number of frames of the sample's video (25 a second) and of its audio (375 of 1,024 samples)."""
SEGMENT_SECONDS = 2
SEGMENTS_OF_A_FLUSH = 500
FREE_BOX_HEADER = struct.Struct(">I4s")


class SampleMedia:
    """One period of encoded media: fragments of SEGMENT_SECONDS which begin with a key frame.

    `filler` bytes are added to each of them as a box that players skip, so that a stream has the bit rate that is wanted.
    """

    def __init__(self, data: bytes, filler: int = 0) -> None:
        ends = [box.end for box in iter_boxes(data, 0, len(data)) if box.type in (b"moov", b"mdat")]
        self.init = data[: ends[0]]
        read = read_init(self.init)
        count = PERIOD_SECONDS // SEGMENT_SECONDS
        # The second period: the first one begins with the encoder's delay.
        units = [data[begin:end] for begin, end in itertools.pairwise(ends)][count : 2 * count]
        box = FREE_BOX_HEADER.pack(filler, b"free") + bytes(filler - FREE_BOX_HEADER.size) if filler else b""
        self._fragments = [(box + unit, _base_times(box + unit, read)) for unit in units]

    def fragments(self, seconds: int) -> Iterator[bytes]:
        """Iterate over the fragments of the given duration in seconds, with times from 0 on."""
        for number in range(seconds // SEGMENT_SECONDS):
            period, index = divmod(number, len(self._fragments))
            data, base_times = self._fragments[index]
            moved = bytearray(data)
            for offset, timescale in base_times:
                (ticks,) = struct.unpack_from(">Q", data, offset)
                struct.pack_into(">Q", moved, offset, ticks + (period - 1) * PERIOD_SECONDS * timescale)
            yield bytes(moved)


def _base_times(fragment: bytes, init: InitSegment) -> list[tuple[int, int]]:
    """Where the 64-bit base time of each track is, and its timescale."""
    found = []
    moof = next(box for box in iter_boxes(fragment, 0, len(fragment)) if box.type == b"moof")
    for traf in iter_boxes(fragment, moof.body, moof.end):
        if traf.type == b"traf":
            boxes = {box.type: box for box in iter_boxes(fragment, traf.body, traf.end)}
            (track,) = struct.unpack_from(">I", fragment, boxes[b"tfhd"].body + 4)
            base_time = boxes[b"tfdt"].body
            if fragment[base_time] != 1:
                raise ValueError("a base time of 32 bits")
            found.append((base_time + 4, init.tracks[track].timescale))
    return found


def encode_sample(folder: Path, *, filler: int = 0) -> SampleMedia:
    """Encode a sample by ffmpeg. Raises CalledProcessError."""
    path, program = folder / "sample.mp4", shutil.which("ffmpeg") or "ffmpeg"
    source = f"testsrc=size=160x90:rate=25:duration={3 * PERIOD_SECONDS}"
    command = [program, "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine=r=48000"]
    command += ["-t", str(3 * PERIOD_SECONDS), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    command += ["-g", str(25 * SEGMENT_SECONDS), "-c:a", "aac", "-b:a", "16k", "-f", "mp4"]
    subprocess.run(
        [*command, "-movflags", "frag_keyframe+empty_moov+default_base_moof", str(path)], check=True, timeout=100
    )
    return SampleMedia(path.read_bytes(), filler)


async def write_stream(settings: StoreSettings, stream_id: str, media: SampleMedia, seconds: int) -> int:
    """Write media to a stream that was made, as its publisher; return how many bytes were sent. It is live afterwards."""
    sent = 0
    async with opened_store(settings, StoreTimings()) as store:
        stream = await store.live.get_stream(stream_id)
        if stream is None:
            raise ValueError(f"no stream {stream_id}")
        stores = LiveStores(store.uploads, store.live, store.growing, store.reader)
        writer = await StreamWriter.open(stores, stream, "tus/1", lambda _: None)
        began = time.time() - seconds
        for number, data in enumerate(itertools.chain([media.init], media.fragments(seconds))):
            await writer.take(writer.session.feed(data, began + number * SEGMENT_SECONDS))
            sent += len(data)
            if not (number + 1) % SEGMENTS_OF_A_FLUSH:
                await writer.flush()
        await writer.flush(keep_lease=False)
        await writer.close()
    return sent
