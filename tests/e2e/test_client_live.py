"""Live streams from both clients and the command line: nothing is lost when a replica is killed, and the file is what was sent."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import pytest

from gridcast import Client, NewLive, TransferProgress
from gridcast.errors import FileMissing, InvalidRequest, NameConflict
from services.common.store.limits import BLOCK_SIZE
from tests.support.client_package import run_gridcast
from tests.support.client_shells import Shell, open_shell
from tests.support.live_client import media_of
from tests.support.stack import Stack, run_forked_stack
from tests.support.waiting import eventually

PIECE = 7_000


@pytest.fixture(scope="module")
def live_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_forked_stack(tmp_path_factory.mktemp("live") / "data") as stack:
        yield stack
    stack.delete_data()


@pytest.fixture(scope="module")
def sample(live_sample: Path) -> bytes:
    return live_sample.read_bytes()


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest, live_stack: Stack) -> Iterator[Shell]:
    with open_shell(request.param, live_stack.url) as shell:
        yield shell


def new_path() -> str:
    return f"live/{os.urandom(6).hex()}.mp4"


class Encoder:
    """A pipe into which a sample is written, piece by piece: the next one once the one before is durable."""

    def __init__(self, sample: bytes, before_piece: Callable[[int], None] = lambda _offset: None) -> None:
        self._sample = sample
        self._before_piece = before_piece
        self._durable = threading.Event()
        self._wanted = 0
        reader, self._writer = os.pipe()
        self.output: BinaryIO = os.fdopen(reader, "rb")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def report(self, progress: TransferProgress) -> None:
        if progress.durable >= self._wanted:
            self._durable.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.close()
        self._thread.join(10)

    def _run(self) -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._writer, "wb", buffering=0) as pipe:
            for offset in range(0, len(self._sample), PIECE):
                self._before_piece(offset)
                self._durable.clear()
                piece = self._sample[offset : offset + PIECE]
                self._wanted = offset + len(piece)
                pipe.write(piece)
                self._durable.wait(30)


def recording(stack: Stack, path: str) -> bytes:
    with Client(stack.url) as client, client.open(path) as file:
        return file.read() or b""


def test_a_stream_from_its_making_to_its_file(shell: Shell, live_stack: Stack, sample: bytes) -> None:
    path = new_path()
    made: NewLive = shell.call("make_live", path, title="A talk", grace=30, target=2)
    assert made.publish_token not in repr(made)
    assert made.playlist == f"{live_stack.url}/live/{made.id}/index.m3u8"
    assert [stream.state for stream in shell.items("live_streams") if stream.id == made.id] == ["waiting"]
    with pytest.raises(NameConflict):
        shell.call("make_live", path)
    with Encoder(sample) as encoder:
        shell.call("publish_live", made, encoder.output, progress=encoder.report)
    ended = shell.call("live_stream", made.id)
    assert (ended.state, ended.title, ended.path, ended.segments) == ("ended", "A talk", path, 6)
    assert ended.duration == pytest.approx(12, abs=0.1)
    assert made.id in [stream.id for stream in shell.items("live_streams", "ended")]
    assert recording(live_stack, path)[BLOCK_SIZE:] == media_of(sample)
    with pytest.raises(FileMissing):
        shell.call("publish_live", made, io.BytesIO(sample))


def test_nothing_is_lost_while_the_replica_is_killed(shell: Shell, live_stack: Stack, sample: bytes) -> None:
    """Twice in mid-stream; the source is a pipe that cannot be read again."""
    kills = {PIECE * number for number in (3, 9)}
    assert len(sample) > max(kills) + PIECE

    def kill(offset: int) -> None:
        if offset in kills:
            before = live_stack.pids["live-1"]
            os.kill(before, signal.SIGKILL)
            eventually(lambda: live_stack.pids["live-1"] != before, 20, "it is restarted")

    path = new_path()
    made = shell.call("make_live", path)
    with Encoder(sample, kill) as encoder:
        shell.call("publish_live", made, encoder.output, progress=encoder.report)
    assert recording(live_stack, path)[BLOCK_SIZE:] == media_of(sample)
    assert shell.call("live_stream", made.id).state == "ended"


def test_streams_are_ended_and_discarded(shell: Shell, live_stack: Stack, sample: bytes) -> None:
    kept, discarded = shell.call("make_live", new_path()), shell.call("make_live", new_path())
    for made in (kept, discarded):
        shell.call("publish_live", made, io.BytesIO(sample), end=False)
        assert shell.call("live_stream", made.id).state == "live"
    assert shell.call("end_live", kept.id).state == "ended"
    assert recording(live_stack, kept.path)[BLOCK_SIZE:] == media_of(sample)
    shell.call("discard_live", discarded.id)
    with pytest.raises(FileMissing):
        shell.call("live_stream", discarded.id)
    with pytest.raises(FileMissing):
        shell.call("info", discarded.path)


def test_messages_are_kept_where_they_happened(shell: Shell, sample: bytes) -> None:
    made = shell.call("make_live", new_path())
    with pytest.raises(NameConflict):
        shell.call("push_live_message", made.id, "chat.said", {"text": "early"})
    shell.call("publish_live", made, io.BytesIO(sample), end=False)
    late = shell.call("push_live_message", made.id, "chat.said", {"text": "now"})
    assert late.time >= 10
    early = shell.call("push_live_message", made.id, "slide.shown", 7, at=2.5, message_id="slide-7")
    assert (early.id, early.time, early.epoch, early.duplicate) == ("slide-7", 2.5, 0, False)
    assert shell.call("push_live_message", made.id, "slide.shown", 8, message_id="slide-7").duplicate
    shell.call("end_live", made.id)
    found = shell.items("live_messages", made.id)
    assert [(one.id, one.type, one.data) for one in found] == [
        ("slide-7", "slide.shown", 7),
        (late.id, "chat.said", {"text": "now"}),
    ]
    assert [one.id for one in shell.items("live_messages", made.id, 2.5, 3)] == ["slide-7"]
    with pytest.raises(FileMissing):
        shell.call("push_live_message", made.id, "chat.said")


def test_other_media_and_other_sources_are_refused(shell: Shell) -> None:
    made, other = shell.call("make_live", new_path()), shell.call("make_live", new_path())
    with pytest.raises(InvalidRequest, match="fragmented MP4"):
        shell.call("publish_live", made, io.BytesIO(b"\x1aE\xdf\xa3" + bytes(5_000)))
    with pytest.raises(InvalidRequest):
        shell.call("publish_live", other, io.StringIO("text"))
    with pytest.raises(InvalidRequest):
        shell.call("live_stream", "../file")
    shell.call("discard_live", made.id)
    shell.call("discard_live", other.id)


def environment(stack: Stack) -> dict[str, str]:
    """That of a command."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")}
    return {**env, "GRIDCAST_URL": stack.url}


def start_command(stack: Stack, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gridcast.cli", "live", *arguments, "--json"],
        env=environment(stack),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_sends_a_file(live_stack: Stack, live_sample: Path, ffmpeg: str) -> None:
    """At its own speed. Ctrl-C ends the stream, and what came is the file."""
    assert ffmpeg
    path = new_path()
    command = start_command(live_stack, "send", str(live_sample), path)
    assert command.stdout is not None
    made = json.loads(command.stdout.readline())
    with Client(live_stack.url) as client:
        eventually(lambda: client.live_stream(made["id"]).segments >= 2, 20, "two segments are listed")
        command.send_signal(signal.SIGINT)
        _, notes = command.communicate(timeout=20)
        assert command.returncode == 0, notes
        ended = client.live_stream(made["id"])
        assert ended.state == "ended"
        assert 2 < ended.duration < 12
        assert client.info(path).length == ended.bytes


def test_the_command_sends_standard_input(live_stack: Stack, sample: bytes) -> None:
    path = new_path()
    done = subprocess.run(
        [sys.executable, "-m", "gridcast.cli", "live", "send", "-", path, "--title", "x"],
        env={**environment(live_stack), "PATH": ""},
        input=sample,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip().endswith("/index.m3u8")
    assert recording(live_stack, path)[BLOCK_SIZE:] == media_of(sample)


def test_the_command_administers_streams(live_stack: Stack) -> None:
    with Client(live_stack.url) as client:
        made, other = client.make_live(new_path()), client.make_live(new_path())
    for arguments, code, found in (
        (["ls"], 0, made.id),
        (["end", made.id], 0, '"state": "ended"'),
        (["discard", other.id], 0, "discarded"),
        (["discard", other.id], 4, ""),
        (["send", "/nothing.mp4", new_path()], 1, ""),
        (["send", "-", new_path(), "--encode"], 2, ""),
    ):
        done = run_gridcast("live", *arguments, "--json", env=environment(live_stack))
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert found in done.stdout
