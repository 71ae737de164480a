"""Long live streams and what is left of them: updates of a long list, a rewind, the file after the end, its length and a seek.

`.venv/bin/python -m tests.bench.live_recordings [--quick] [--store gridfs|files]`. The streams are simulated: written to the store
by the live service's writer, without waiting. Baselines: nginx with the same list and segment as files; ffmpeg, which makes a
seekable file after the end, as servers do that record apart from what they send; nginx with the same media as one fragmented file
without an index. Needs ffmpeg, ffprobe and nginx.
"""

import argparse
import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx

from deploy.local import databases
from services.common.live.playlist import Playlist
from services.common.live.segments import Epoch, Segment
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.bench.stream import run_nginx
from tests.support.databases import FilesFolder, ServerProcess, run_server, small_mongod_program, storage_env
from tests.support.http_reads import read_length, read_picture
from tests.support.live_client import LiveClient, make_stream
from tests.support.live_replicas import store_settings
from tests.support.long_streams import SampleMedia, encode_sample, write_stream
from tests.support.processes import ServiceProcess, run_service

DATABASE = "bench_recordings"
NGINX, FFMPEG = "nginx", "ffmpeg"
TOOLS = ("ffmpeg", "ffprobe", "nginx")
LIST_HOURS, LIST_TARGET = 24.0, 2
LIST_BEGAN = 1_800_000_000.0
PADDING_ENDS = 4.0
"""Hours from which on the index fills the header so far that FFmpeg reads over the padding; else it skips it by another request."""


@dataclass
class Recorder:
    """A store with a live service, and streams that are written to it."""

    server: ServerProcess
    live: ServiceProcess
    media: SampleMedia
    env: dict[str, str]
    folder: Path

    def record(self, hours: float) -> LiveClient:
        client = make_stream(self.live)
        settings = store_settings(self.server, DATABASE)
        asyncio.run(write_stream(settings, client.id, self.media, round(hours * 3600)))
        return client


@contextlib.contextmanager
def run_recorder(folder: Path, store: str, redis_url: str) -> Iterator[Recorder]:
    """A recorder on a new store."""
    with contextlib.ExitStack() as running:
        server: ServerProcess = FilesFolder(folder / "files")
        if store == "gridfs":
            server = running.enter_context(run_server(folder / "mongod", small_mongod_program))
        else:
            (folder / "files").mkdir()
        env = storage_env(server, redis_url, DATABASE)
        live = running.enter_context(run_service("services.live", folder, env))
        yield Recorder(server, live, encode_sample(folder), env, folder)


def milliseconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def fetch(client: httpx.Client, url: str, **headers: str) -> bytes:
    """The content of an answer that is complete."""
    return client.get(url, headers=headers).raise_for_status().content


def file_url(stream: ServiceProcess, client: LiveClient) -> str:
    """The ordinary address of what a stream became."""
    described = client.get()
    return f"{stream.url}/file/stream?{urlencode({key: described[key] for key in ('folder', 'filename')}, quote_via=quote)}"


def measure_updates(hours: float, rounds: int) -> list[Measurement]:
    """Measure an update of an EVENT playlist of `hours`, in this process: append a segment, render the delta update and the gzip.

    Measured are its time, and the sizes of both texts.
    """
    update = Measurement(f"update of a list of {hours:g} h", "ms", [Target(1)])
    delta = Measurement(f"{hours:g} h: delta update", "KiB", [Target(4)])
    whole = Measurement(f"{hours:g} h: whole list, gzip", "KiB", [Target(400)])
    playlist = Playlist(LIST_TARGET)
    playlist.add_epoch(Epoch(0, b"", 90_000, 0, 0, LIST_BEGAN))
    count = round(hours * 3600 / LIST_TARGET)

    def append(number: int) -> None:
        seconds = LIST_TARGET * number
        places = (number, 0, 250_000 * number, 250_000, 90_000 * seconds, 90_000 * LIST_TARGET, 90_000)
        playlist.append(Segment(*places, LIST_BEGAN + seconds, is_key=True))

    for number in range(count):
        append(number)
    playlist.render_gzip()
    for number in range(count, count + 100 * rounds):
        began = time.perf_counter()
        append(number)
        texts = playlist.render_delta().encode(), playlist.render_gzip()
        update.add(OURS, (time.perf_counter() - began) * 1000)
        for measurement, text in zip((delta, whole), texts, strict=True):
            measurement.add(OURS, len(text) / 1024)
    return [update, delta, whole]


def measure_rewind(recorder: Recorder, hours: float, rounds: int) -> list[Measurement]:
    """List and first segment, from a stream service that has read nothing yet, and from one that has."""
    cold = Measurement(f"rewind of {hours:g} h, new process", "ms", [Target(500)])
    warm = Measurement("the same, known stream", "ms", [Target(15)])
    client = recorder.record(hours)
    live = f"live/{client.id}"
    copies = {name: recorder.folder / name for name in ("media.m3u8", "0.m4s")}
    for number in range(rounds):
        with run_service("services.stream", recorder.folder, recorder.env) as stream, httpx.Client() as http:
            fetch(http, f"{stream.url}/livez")
            base = f"{stream.url}/{live}"

            def rewind(http: httpx.Client = http, base: str = base) -> None:
                copies["media.m3u8"].write_bytes(fetch(http, f"{base}/media.m3u8"))
                copies["0.m4s"].write_bytes(fetch(http, f"{base}/0/0.m4s"))

            cold.add(OURS, milliseconds(rewind))
            for _ in range(3):
                warm.add(OURS, milliseconds(rewind))
        with run_nginx(recorder.folder / f"nginx-{number}", copies) as (url, _), httpx.Client() as http:

            def baseline(http: httpx.Client = http, url: str = url) -> None:
                for name in copies:
                    fetch(http, url + name)

            cold.add(NGINX, milliseconds(baseline))
            for _ in range(3):
                warm.add(NGINX, milliseconds(baseline))
    return [cold, warm]


def measure_end(recorder: Recorder, hours: float, rounds: int) -> Iterator[Measurement]:
    """From the end to a range of the ordinary file; then what players ask for its length and for a picture in its middle."""
    is_long = hours >= PADDING_ENDS
    ended = Measurement(f"{hours:g} h: POST end -> its answer", "ms")
    figures = Measurement(f"{hours:g} h: POST end -> any range", "ms", [Target(100)])
    counts = {
        "length": Measurement(f"{hours:g} h: requests for the length", "", [Target(1)] if is_long else ()),
        "picture": Measurement(f"{hours:g} h: requests for a seek", "", [Target(3)] if is_long else ()),
        "bytes": Measurement(f"{hours:g} h: bytes read for a seek", "KiB", [Target(1024)]),
    }
    plain = recorder.folder / f"plain-{hours:g}.mp4"
    with plain.open("wb") as file:
        file.write(recorder.media.init)
        file.writelines(recorder.media.fragments(round(hours * 3600)))
    remux = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(plain), "-c", "copy", "-movflags", "+faststart"]
    with (
        run_service("services.stream", recorder.folder, recorder.env) as stream,
        run_nginx(recorder.folder / f"nginx-{hours:g}h", {"plain.mp4": plain}) as (nginx, _),
        httpx.Client(timeout=60) as http,
    ):
        for _ in range(rounds):
            client = recorder.record(hours)
            url = file_url(stream, client)
            fetch(http, f"{stream.url}/livez")
            fetch(http, f"{recorder.live.url}/livez")
            began = time.perf_counter()
            http.post(f"{recorder.live.url}/live/{client.id}/end").raise_for_status()
            ended.add(OURS, (time.perf_counter() - began) * 1000)
            if len(fetch(http, url, range="bytes=-1000")) != 1000:
                raise RuntimeError("the file has no ranges")
            figures.add(OURS, (time.perf_counter() - began) * 1000)
            for contender, address in ((OURS, url), (NGINX, f"{nginx}plain.mp4")):
                counts["length"].add(contender, read_length("ffprobe", address).requests)
                picture = read_picture("ffmpeg", address, hours * 1800)
                counts["picture"].add(contender, picture.requests)
                counts["bytes"].add(contender, picture.bytes_read / 1024)
        job = [*remux, str(recorder.folder / "remuxed.mp4")]
        figures.add(FFMPEG, milliseconds(lambda: subprocess.run(job, check=True)))
    plain.unlink()
    yield from (ended, figures, *counts.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="streams of a quarter of an hour in place of 1, 4 and 8 h")
    parser.add_argument("--store", default="gridfs", choices=["gridfs", "files"])
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    rewound, lengths, rounds = (0.25, (0.25,), 2) if options.quick else (4.0, (1.0, 4.0, 8.0), 5)
    for line in describe_machine(("ffmpeg", "-version"), ("nginx", "-v")):
        print(line)
    print(f"store {options.store}, {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            run_server(folder / "redis", databases.redis_server) as redis,
            run_recorder(folder, options.store, redis.url) as recorder,
        ):
            measured = measure_rewind(recorder, rewound, rounds)
            for hours in lengths:
                measured += measure_end(recorder, hours, rounds)
            measured += measure_updates(LIST_HOURS, rounds)
    for line in format_table(measured, (OURS, NGINX, FFMPEG)):
        print(line)


if __name__ == "__main__":
    main()
