"""One listener: runs ffmpeg for one publisher after the other, and sends what each sends to a live stream.

A publisher that comes back within the grace goes on with its stream, as a further source of it; after that the stream is ended.
"""

import fcntl
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from deploy.ingest.listeners import RTMP_REFUSAL, IngestListener, IngestSettings, InvalidIngestSettings, ffmpeg_command
from deploy.ingest.live_api import ApiError, LiveApi, PublishedStream
from deploy.ingest.sending import Sender
from deploy.local import die_with_parent

PIECE_BYTES = 64 * 1024
QUEUED_PIECES = 128
FLUSH_SECONDS = 0.5
STALL_SECONDS = 30.0
"""A publisher that sends nothing for so long has gone without a word."""
GIVE_UP_SECONDS = 8.0
"""From SIGTERM until ffmpeg and unsent bytes are given up."""
PAUSE_SECONDS = 1.0
"""Before ffmpeg is started again after it could not listen, or a publisher was refused."""
MAX_ERROR_BYTES = 1024 * 1024
MAX_NAMES = 20
MAX_LINES = 20
"""Lines of ffmpeg's errors that are logged of each look at them."""

_DIE_WITH_PARENT = (sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()))

Log = Callable[[str, str], None]
"""Level and text."""


class IngestStopped(Exception):
    """The process ends, and what is left to do has no more time."""


class ErrorOutput:
    """What ffmpeg writes to stderr: a file, so that ffmpeg never waits for a reader."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        # ffmpeg goes on at the beginning of a truncated file; the mode "a" of `open` would not reach the descriptor.
        fcntl.fcntl(self.fileno(), fcntl.F_SETFL, os.O_APPEND)
        self._read = 0

    def fileno(self) -> int:
        """For subprocess."""
        return self._file.fileno()

    def poll(self) -> bytes:
        """Return what is new."""
        found = os.pread(self.fileno(), MAX_ERROR_BYTES, self._read)
        self._read += len(found)
        if self._read >= MAX_ERROR_BYTES:
            os.ftruncate(self.fileno(), 0)
            self._read = 0
        return found

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


class ListenerLoop:
    """One listener, in a thread of its own."""

    def __init__(
        self, listener: IngestListener, settings: IngestSettings, api: LiveApi, stopping: threading.Event, log: Log
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._api = api
        self._stopping = stopping
        self._log = log
        self._sender: Sender | None = None
        self._left_at = 0.0
        self._stopped_at = 0.0

    def run(self) -> None:
        """Serve publishers until the process stops; then end the stream."""
        while not self._stopping.is_set():
            try:
                self._serve_one()
            except ApiError as error:
                self._log("warning", f"{self._listener.protocol}: the stream is given up: {error}")
                self._sender = None
                self._stopping.wait(PAUSE_SECONDS)
            except InvalidIngestSettings as error:  # a file with a token that was there at the start
                self._log("error", f"{self._listener.protocol}: {error}")
                self._stopping.wait(PAUSE_SECONDS)
            except IngestStopped:
                break
            except OSError as error:
                self._log("error", f"{self._listener.protocol}: {type(error).__name__}: {error.strerror}")
                self._stopping.wait(PAUSE_SECONDS)
        self._end_stream()

    def _serve_one(self) -> None:
        """Run ffmpeg once: wait for a publisher, and send its media until it leaves."""
        errors = ErrorOutput()
        program, *arguments = ffmpeg_command(self._listener, self._settings)
        process = subprocess.Popen(
            # An ingest that is killed must not leave an ffmpeg that holds its port.
            [*_DIE_WITH_PARENT, shutil.which(program) or program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors.fileno(),
        )
        pieces: queue.Queue[bytes] = queue.Queue(QUEUED_PIECES)
        reader = threading.Thread(target=_read_pieces, args=(process, pieces), daemon=True)
        reader.start()
        try:
            served = self._copy(process, pieces, errors)
        finally:
            process.kill()
            _drain(pieces, reader)
            process.wait()
            self._log_errors(errors.poll())
            errors.close()
        if not served:
            self._stopping.wait(PAUSE_SECONDS)

    def _copy(self, process: "subprocess.Popen[bytes]", pieces: "queue.Queue[bytes]", errors: ErrorOutput) -> bool:
        """Send what ffmpeg writes. Returns whether there was a publisher."""
        served = stop_sent = False
        flushed_at = heard_at = time.monotonic()
        while True:
            if self._stopping.is_set() and not stop_sent:
                process.terminate()  # it writes its last fragment; a second signal would end it at once
                stop_sent = True
            piece = _next_piece(pieces, FLUSH_SECONDS)
            now = time.monotonic()
            if self._is_refused(errors.poll()):
                return False
            if piece == b"":
                break
            if piece is not None:
                heard_at = now
                sender = self._sender if served and self._sender is not None else self._begin_source()
                served = True
                sender.feed(piece)
                if now - flushed_at >= FLUSH_SECONDS or sender.is_full:
                    sender.flush()
                    flushed_at = time.monotonic()
            elif not served and not stop_sent:
                self._end_after_grace(now)
            elif now - heard_at > (GIVE_UP_SECONDS if stop_sent else STALL_SECONDS):
                self._log("warning", f"{self._listener.protocol}: ffmpeg is silent and is ended")
                break
        self._leave(served=served)
        return served

    def _is_refused(self, said: bytes) -> bool:
        """Whether ffmpeg has said of the publisher that it has another key.

        It says so before its first byte, which was read before this look: nothing of such a publisher is sent.
        """
        if refused := RTMP_REFUSAL in said:
            self._log("warning", f"{self._listener.protocol}: a publisher with another key is refused")
        else:
            self._log_errors(said)
        return refused

    def _leave(self, *, served: bool) -> None:
        """Send the rest of a publisher that has left. Its stream waits for it."""
        if served and self._sender is not None:
            self._sender.flush()
            self._left_at = time.monotonic()
            self._log("info", f"{self._listener.protocol}: the publisher of {self._sender.stream.id} has left")

    def _end_after_grace(self, now: float) -> None:
        if self._sender is not None and now - self._left_at > self._settings.grace:
            self._end_stream()

    def _begin_source(self) -> Sender:
        """Begin a source of the stream that was left, or of a new one."""
        if self._sender is not None:
            sender = Sender(self._api, self._sender.stream, self._pause)
            try:
                sender.begin()
            except ApiError as error:
                self._log("info", f"{self._listener.protocol}: the stream cannot go on: {error}")
            else:
                self._sender = sender
                return sender
        stream = self._create_stream()
        self._sender = sender = Sender(self._api, stream, self._pause)
        sender.begin()
        # The playlist is public by its id; the publish token is in no line.
        self._log("info", f"{self._listener.protocol}: stream {stream.id}, playlist {stream.playlist}")
        return sender

    def _create_stream(self) -> PublishedStream:
        began = datetime.now(UTC)
        attempt = 0
        while True:
            suffix = f"-{attempt + 1}" if attempt else ""
            name = f"{self._listener.protocol}-{began:%Y%m%d-%H%M%S}{suffix}.mp4"
            try:
                # The service waits longer than we do, so that a stream is ended here and with all of its bytes.
                return self._api.create(self._settings.folder, name, "", self._settings.grace + STALL_SECONDS)
            except ApiError as error:
                taken = error.status == 409 and attempt < MAX_NAMES
                if not taken and not error.is_temporary:
                    raise
                if not taken:
                    self._pause(PAUSE_SECONDS)
            attempt += 1

    def _end_stream(self) -> None:
        sender, self._sender = self._sender, None
        if sender is None:
            return
        try:
            sender.finish()
        except (ApiError, IngestStopped) as error:
            self._log("warning", f"{self._listener.protocol}: stream {sender.stream.id} could not be ended: {error}")
        else:
            self._log("info", f"{self._listener.protocol}: stream {sender.stream.id} has ended")

    def _pause(self, seconds: float) -> None:
        """Wait between two attempts. Raises IngestStopped where the process has stopped for too long."""
        if self._stopping.is_set():
            self._stopped_at = self._stopped_at or time.monotonic()
            if time.monotonic() - self._stopped_at > GIVE_UP_SECONDS:
                raise IngestStopped
            time.sleep(seconds)
        else:
            self._stopping.wait(seconds)

    def _log_errors(self, said: bytes) -> None:
        lines = said.decode("utf-8", "replace").splitlines()
        if len(lines) > MAX_LINES:
            lines = [*lines[:MAX_LINES], f"{len(lines) - MAX_LINES} more lines"]
        for line in lines:
            if text := line.strip():
                self._log("warning", f"{self._listener.protocol}: ffmpeg: {text}")


def _read_pieces(process: "subprocess.Popen[bytes]", pieces: "queue.Queue[bytes]") -> None:
    """Put what ffmpeg writes into the queue; an empty piece is the end."""
    output = process.stdout
    if output is None:
        return
    with output:
        while piece := os.read(output.fileno(), PIECE_BYTES):
            pieces.put(piece)
    pieces.put(b"")


def _next_piece(pieces: "queue.Queue[bytes]", timeout: float) -> bytes | None:
    try:
        return pieces.get(timeout=timeout)
    except queue.Empty:
        return None


def _drain(pieces: "queue.Queue[bytes]", reader: threading.Thread) -> None:
    """Empty the queue until the reader, which may wait for room in it, has ended."""
    while reader.is_alive():
        _next_piece(pieces, 0.05)
