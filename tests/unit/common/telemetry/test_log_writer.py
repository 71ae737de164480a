"""services.common.telemetry.log_writer on real pipes: order, one write for some milliseconds, and a reader that stalls, resumes or
closes the pipe.
"""

import asyncio
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.telemetry import log_writer as room
from services.common.telemetry.log_writer import BufferedLogWriter

pytestmark = pytest.mark.anyio

Pipe = tuple[int, int]


@pytest.fixture
def os_pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == reader  # a test closed it


def lost_lines_message(count: int) -> str:
    return f"lost {count}"


def read_available(reader: int) -> bytes:
    """The bytes that can be read now."""
    data = b""
    while select.select([reader], [], [], 0)[0] and (piece := os.read(reader, 1 << 16)):
        data += piece
    return data


def read_available_lines(reader: int) -> list[str]:
    """The same as lines."""
    return read_available(reader).decode().splitlines()


FLUSH_SECONDS = 3 * room.LOG_FLUSH_INTERVAL_SECONDS


async def test_lines_of_a_few_milliseconds_are_written_together_in_order(
    os_pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os_pipe
    writes: list[bytes] = []
    real = os.write

    def record_write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", record_write)
    lines = BufferedLogWriter(writer, lost_lines_message)
    lines.write_buffered("1")
    await asyncio.sleep(0)
    lines.write_buffered("2")
    assert read_available_lines(reader) == []
    await asyncio.sleep(FLUSH_SECONDS)
    assert read_available_lines(reader) == ["1", "2"]
    assert writes == [b"1\n2\n"]
    lines.write_buffered("3")
    lines.write("4")  # now, and not before what is held
    assert read_available_lines(reader) == ["3", "4"]
    await asyncio.sleep(FLUSH_SECONDS)
    assert read_available_lines(reader) == []
    lines.write_buffered("5")  # and the next one does not wait for ever
    await asyncio.sleep(FLUSH_SECONDS)
    assert read_available_lines(reader) == ["5"]


async def test_buffered_lines_are_written_at_close(os_pipe: Pipe) -> None:
    reader, writer = os_pipe
    lines = BufferedLogWriter(writer, lost_lines_message)
    lines.write_buffered("last")
    lines.flush(room.FINAL_FLUSH_TIMEOUT_SECONDS)
    assert read_available_lines(reader) == ["last"]


async def test_large_burst_is_written_immediately(os_pipe: Pipe) -> None:
    reader, writer = os_pipe
    lines = BufferedLogWriter(writer, lost_lines_message)
    lines.write_buffered("x" * (room.LOG_BUFFER_CHARACTERS + 1))
    assert (
        read_available_lines(reader) == ["x" * (room.LOG_BUFFER_CHARACTERS + 1)] or lines._unwritten
    )  # a pipe may be smaller than that


async def test_stalled_pipe_reader_blocks_no_caller_and_the_buffer_is_bounded(os_pipe: Pipe) -> None:
    reader, writer = os_pipe
    lines = BufferedLogWriter(writer, lost_lines_message)
    line = "x" * 999
    for _ in range(3000):  # three times what may wait
        lines.write_buffered(line)
    await asyncio.sleep(FLUSH_SECONDS)
    assert len(lines._unwritten) <= room.MAX_UNWRITTEN_LOG_BYTES
    assert lines._buffered_characters < room.LOG_BUFFER_CHARACTERS + len(line)
    # The reader resumes: buffered lines arrive, and then the number of lost ones.
    data = b""
    async with asyncio.timeout(10):
        while not (b"lost" in data and data.endswith(b"\n")):
            data += read_available(reader)
            await asyncio.sleep(room.LOG_WRITE_RETRY_SECONDS / 4)
    arrived = data.decode().splitlines()
    whole = [text for text in arrived if text == line]
    (said,) = {text for text in arrived if text.startswith("lost")}
    assert len(whole) + int(said.split()[1]) == 3000
    assert len(whole) > 900
    assert set(arrived) == {line, said}


async def test_closed_pipe_reader_is_no_error(os_pipe: Pipe) -> None:
    reader, writer = os_pipe
    lines = BufferedLogWriter(writer, lost_lines_message)
    os.close(reader)
    lines.write("nobody reads this")
    lines.write_buffered("nor this")
    await asyncio.sleep(FLUSH_SECONDS)
    assert not lines._unwritten


async def test_threads_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        lines = BufferedLogWriter(file.fileno(), lost_lines_message)

        def write_lines(number: int) -> None:
            for i in range(500):
                lines.write(f"{number} {i}")

        threads = [threading.Thread(target=write_lines, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for i in range(500):
            lines.write_buffered(f"loop {i}")
            if i % 10 == 0:
                await asyncio.sleep(0)
        for thread in threads:
            thread.join()
        lines.flush()
    found = path.read_text("ascii").splitlines()
    assert len(found) == len(set(found)) == 2500
    for who in ("loop", "0", "1", "2", "3"):
        assert [line for line in found if line.split()[0] == who] == [f"{who} {i}" for i in range(500)]


async def test_final_flush_waits_for_the_reader_with_a_timeout(os_pipe: Pipe) -> None:
    reader, writer = os_pipe
    lines = BufferedLogWriter(writer, lost_lines_message)
    for _ in range(20):
        lines.write("x" * 9999)  # more than a pipe takes
    began = time.monotonic()
    lines.flush(0.2)
    assert 0.1 < time.monotonic() - began < 5
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            select.select([reader], [], [], 0.01)
            read_available(reader)

    reading = threading.Thread(target=read)
    reading.start()
    lines.flush(10)
    over.set()
    reading.join()
    assert not lines._unwritten
