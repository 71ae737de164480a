"""`gridcast live`: sends a file, a camera, a screen or standard input as a live stream; lists, ends and discards streams."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import BinaryIO, cast

import click

from gridcast._client import Client
from gridcast.cli.connection import (
    ServerChoice,
    find_connection,
    name_in_errors,
    output_options,
    parse_place,
    server_options,
)
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.output import CommandOutput, format_bytes, format_duration, printable
from gridcast.errors import InvalidRequest, RequestError
from gridcast.values import NewLive, TransferProgress

KEY_FRAME_SECONDS = 2
_FRAGMENTED_OUTPUT = (
    "-f",
    "mp4",
    "-movflags",
    "+frag_keyframe+empty_moov+default_base_moof",
    "-frag_duration",
    "1000000",
    "-min_frag_duration",
    "200000",
    "-flush_packets",
    "1",
    "pipe:1",
)
_ENCODED = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-tune",
    "zerolatency",
    "-pix_fmt",
    "yuv420p",
    "-force_key_frames",
    f"expr:gte(t,n_forced*{KEY_FRAME_SECONDS})",
    "-c:a",
    "aac",
)


def file_command(source: str, *, copies: bool) -> list[str]:
    """Read a file, or the address of a stream, at its own speed; with `copies` the codecs stay."""
    codecs: Sequence[str] = ("-c", "copy") if copies else _ENCODED
    return ["ffmpeg", *_QUIET, "-re", "-i", source, "-map", "0:v?", "-map", "0:a?", *codecs, *_FRAGMENTED_OUTPUT]


def camera_command(device: str, platform: str = sys.platform) -> list[str]:
    """Read a camera: /dev/video0 on Linux, a name or number elsewhere."""
    if platform == "darwin":
        given = ["-f", "avfoundation", "-framerate", "30", "-i", device]
    elif platform == "win32":
        given = ["-f", "dshow", "-i", f"video={device}"]
    else:
        given = ["-f", "v4l2", "-i", device]
    return ["ffmpeg", *_QUIET, *given, *_ENCODED, *_FRAGMENTED_OUTPUT]


def screen_command(environment: Mapping[str, str], platform: str = sys.platform) -> list[str]:
    """Read the screen."""
    if platform == "darwin":
        given = ("-f", "avfoundation", "-framerate", "30", "-i", "Capture screen 0")
    elif platform == "win32":
        given = ("-f", "gdigrab", "-framerate", "30", "-i", "desktop")
    else:
        given = ("-f", "x11grab", "-framerate", "30", "-i", environment.get("DISPLAY", ":0"))
    return ["ffmpeg", *_QUIET, *given, *_ENCODED, *_FRAGMENTED_OUTPUT]


_QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin")


NOTE_SECONDS = 10.0
_STATES = click.Choice(["waiting", "live", "interrupted", "ended"])


@click.group()
def live() -> None:
    """Send and administer live streams."""


@live.command("send")
@click.argument("source", metavar="SOURCE")
@click.argument("place", metavar="PLACE")
@click.option("--title", default="", help="What viewers read.")
@click.option("--encode", is_flag=True, help="SOURCE is encoded as H.264 and AAC; else its codecs stay.")
@click.option("--window", type=click.IntRange(10), metavar="SECONDS", help="Viewers rewind so far; else to the start.")
@click.option("--grace", type=click.FloatRange(0), metavar="SECONDS", help="How long it may be interrupted.")
@click.option("--takeover", is_flag=True, help="Another publisher may replace this one.")
@server_options
@output_options
def send(
    source: str,
    place: str,
    *,
    title: str,
    encode: bool,
    window: int | None,
    grace: float | None,
    takeover: bool,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Send SOURCE live until it ends, or until Ctrl-C; the recording is then the file PLACE.

    SOURCE is a file or an address that ffmpeg reads, camera:DEVICE as camera:/dev/video0, screen, or - for fragmented MP4 on
    standard input, which needs no ffmpeg. Prints the address of the playlist.
    """
    connection, path = parse_place(place, server)
    command = _command(source, encode=encode)
    with connection.client() as client, name_in_errors(path):
        encoder = None if command is None else _start(command)
        try:
            stream = client.make_live(path, title=title, window=window, grace=grace, takeover=takeover)
            output.record(stream.playlist, {"id": stream.id, "path": path, "playlist": stream.playlist})
            media = sys.stdin.buffer if encoder is None else cast("BinaryIO", encoder.stdout)
            _publish(client, stream, media, encoder, output)
        finally:
            if encoder is not None:
                encoder.kill()
                encoder.wait()
        if encoder is not None and encoder.returncode not in {0, -signal.SIGKILL, 255}:
            raise InvalidRequest(f"ffmpeg has failed (exit code {encoder.returncode})")
        ended = client.live_stream(stream.id)
    output.note(
        f"{printable(path)}: {format_duration(ended.duration)}, {format_bytes(ended.bytes)}, {printable(ended.state)}"
    )
    return ExitCode.OK


def _publish(
    client: Client,
    stream: NewLive,
    media: BinaryIO,
    encoder: subprocess.Popen[bytes] | None,
    output: CommandOutput,
) -> None:
    noted_at = time.monotonic()

    def show(progress: TransferProgress) -> None:
        nonlocal noted_at
        if time.monotonic() - noted_at >= NOTE_SECONDS:
            noted_at = time.monotonic()
            output.note(f"sent {format_bytes(progress.durable)}")

    try:
        client.publish_live(stream, media, progress=show)
    except KeyboardInterrupt:
        # The recording is kept: what was acknowledged is stored.
        if encoder is not None:
            encoder.kill()
        _end(client, stream, output)
    if encoder is not None:
        encoder.wait()


def _end(client: Client, stream: NewLive, output: CommandOutput) -> None:
    try:
        client.end_live(stream.id)
    except RequestError as error:
        output.error(error, f"the stream {stream.id} is not ended: gridcast live end {stream.id}")


def _command(source: str, *, encode: bool) -> list[str] | None:
    """Return the command line of ffmpeg, None for standard input."""
    if source == "-":
        if encode:
            raise click.UsageError("standard input is sent as it is: fragmented MP4")
        return None
    if source == "screen":
        return screen_command(os.environ)
    if source.startswith("camera:"):
        return camera_command(source.removeprefix("camera:"))
    return file_command(source, copies=not encode)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        # In a process group of its own: Ctrl-C must not end it before what it has written was sent.
        return subprocess.Popen(  # noqa: S603  # no shell, and the words are the user's own
            command,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            process_group=0 if os.name == "posix" else None,
        )
    except FileNotFoundError:
        raise InvalidRequest("ffmpeg is not installed; fragmented MP4 can be sent from standard input: -") from None


@live.command("ls")
@click.option("--state", type=_STATES, help="In this state; else all that have not ended.")
@server_options
@output_options
def list_streams(*, state: str | None, server: ServerChoice, output: CommandOutput) -> int:
    """List live streams."""
    with find_connection(server).client() as client:
        for stream in client.live_streams(state):  # type: ignore[arg-type]
            line = f"{stream.id} {stream.state:<11} {format_duration(stream.duration):>8} {stream.path}"
            output.record(printable(line), asdict(stream))
    return ExitCode.OK


@live.command("end")
@click.argument("stream_id", metavar="ID")
@server_options
@output_options
def end(stream_id: str, *, server: ServerChoice, output: CommandOutput) -> int:
    """End a stream; what came is its file."""
    with find_connection(server).client() as client:
        stream = client.end_live(stream_id)
    output.record(f"ended {printable(stream.path)}", asdict(stream))
    return ExitCode.OK


@live.command("discard")
@click.argument("stream_id", metavar="ID")
@server_options
@output_options
def discard(stream_id: str, *, server: ServerChoice, output: CommandOutput) -> int:
    """Throw a stream away with all that came."""
    with find_connection(server).client() as client:
        client.discard_live(stream_id)
    output.record(f"discarded {printable(stream_id)}", {"id": stream_id, "status": "discarded"})
    return ExitCode.OK
