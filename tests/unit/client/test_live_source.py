"""LiveSource and the commands of ffmpeg: nothing waits for a full block, everything is bounded, commands are complete."""

import io
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcast._local import sources
from gridcast._local.sources import LiveSource
from gridcast.cli.commands.live import camera_command, file_command, screen_command
from gridcast.errors import InvalidRequest
from tests.support.waiting import eventually


@given(st.binary(max_size=3_000), st.integers(1, 700))
def test_all_bytes_come_in_their_order(data: bytes, size: int) -> None:
    source = LiveSource(io.BytesIO(data))
    found = b""
    while piece := source.read(size):
        assert len(piece) <= size
        found += piece
    assert found == data


def test_the_first_bytes_do_not_wait_for_others() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output, os.fdopen(writer, "wb", buffering=0) as encoder:
        source = LiveSource(output)
        encoder.write(b"moof")
        assert source.read(1_000_000) == b"moof"
        encoder.write(b"mdat")
        assert source.read(1_000_000) == b"mdat"
        encoder.close()
        assert source.read(1_000_000) == b""


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BUFFERED_BYTES", 1_000)
    taken = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal taken
            taken += 400
            return b"x" * 400

    source = LiveSource(Endless())  # type: ignore[arg-type]  # it has `read`
    eventually(lambda: taken >= 1_200, 5)
    assert source.read(10) == b"x" * 10
    assert taken <= 2_000
    source.stop()
    eventually(lambda: not any(thread.name == "gridcast-live" for thread in threading.enumerate()), 5)


def test_a_fault_of_the_source_is_raised_behind_its_bytes() -> None:
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.left = [b"abc"]

        def read(self, size: int = -1) -> bytes:
            if self.left:
                return self.left.pop()
            raise OSError("gone")

    source = LiveSource(Broken())  # type: ignore[arg-type]  # it has `read`
    assert source.read(100) == b"abc"
    with pytest.raises(OSError, match="gone"):
        source.read(100)
    with pytest.raises(InvalidRequest):
        LiveSource(io.StringIO("text")).read(100)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        LiveSource(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command",
    [
        file_command("a.mkv", copies=True),
        file_command("-weird name.mkv", copies=False),
        *(camera_command("/dev/video0", platform) for platform in ("linux", "darwin", "win32")),
        *(screen_command({"DISPLAY": ":7"}, platform) for platform in ("linux", "darwin", "win32")),
    ],
)
def test_every_command_writes_fragments_to_standard_output(command: list[str]) -> None:
    assert command[0] == "ffmpeg"
    assert command[-1] == "pipe:1"
    assert "+frag_keyframe+empty_moov+default_base_moof" in command
    assert "-nostdin" in command
    assert command.count("-i") == 1
