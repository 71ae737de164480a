"""services.common.store.files.writeback on real files, and what a write does where the system has no such call."""

import os
import sys
from pathlib import Path

import pytest

from services.common.store.files import media_folder
from services.common.store.files.writeback import WRITEBACK_WINDOW_BYTES, has_passed_window, start_writeback


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sync_file_range")
def test_writeback_is_begun_within_and_beyond_a_window(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.truncate(descriptor, 2 * WRITEBACK_WINDOW_BYTES)
        for offset in (0, WRITEBACK_WINDOW_BYTES - 4096, WRITEBACK_WINDOW_BYTES, 2 * WRITEBACK_WINDOW_BYTES - 4096):
            os.pwrite(descriptor, b"x" * 4096, offset)
            assert start_writeback(descriptor, offset, 4096)
    finally:
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has sync_file_range")
def test_a_fault_is_raised_and_a_file_without_pages_is_none() -> None:
    reading, writing = os.pipe()
    assert not start_writeback(writing, 0, 1)
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        start_writeback(writing, 0, 1)


@pytest.mark.parametrize(
    ("offset", "end", "passed"),
    [
        (0, 1, False),
        (0, WRITEBACK_WINDOW_BYTES, True),
        (WRITEBACK_WINDOW_BYTES - 1, WRITEBACK_WINDOW_BYTES + 1, True),
        (WRITEBACK_WINDOW_BYTES, WRITEBACK_WINDOW_BYTES + 1, False),
    ],
)
def test_windows(offset: int, end: int, *, passed: bool) -> None:
    assert has_passed_window(offset, end) is passed


def test_without_the_call_a_file_is_synced_once_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(media_folder, "start_writeback", lambda *_: False)
    monkeypatch.setattr(media_folder, "sync_data", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for number in range(5):
            media_folder.write_at(
                descriptor, number * WRITEBACK_WINDOW_BYTES // 2, [b"x" * (WRITEBACK_WINDOW_BYTES // 2)]
            )
    finally:
        os.close(descriptor)
    assert synced == [WRITEBACK_WINDOW_BYTES, 2 * WRITEBACK_WINDOW_BYTES]
