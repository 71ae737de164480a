"""A live stream is sent by tus and watched in Chromium, while what carries it is killed again and again.

Killed are the replicas that receive it, mongod, PostgreSQL (with the files store) and Redis, which comes back empty. Nothing that
was sent is lost, the file equals it, and the player of the page is never made anew: one video element, one MediaSource with one
buffer, whose time goes on to the end. The lists that are read meanwhile keep the rules of HLS; `m3u8` reads them as well.

The long forms kill each 20 s for ten minutes. Playwright drives Debian's Chromium; without it, Node or npm the tests are skipped.
"""

import concurrent.futures
import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.databases import TEST_STORE, ServerProcess, run_in_thread, storage_env
from tests.support.hls_rules import check_playlist, check_reload
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.live_publisher import LiveReplicas, TusSender
from tests.support.migrated_databases import migrate
from tests.support.npm import NpmPackages
from tests.support.postgresql import run_postgresql
from tests.support.processes import ServiceProcess, run_service
from tests.support.programs import require_program
from tests.support.redis_commands import send_redis_commands
from tests.support.scenarios import DRIVER
from tests.support.shared_folders import make_once
from tests.support.waiting import eventually

PROGRAM = Path(__file__).parent / "live_watched.mjs"
AHEAD = 8
"""Seconds of media that are sent at once, so that there is a list to watch; the rest is sent as it would be recorded."""
PATIENCE = 60.0
"""Seconds that Chromium takes to start and to play, at most."""
LONGEST_STALL = 15.0
"""Seconds: a database that is killed is away for some, and the player is three target durations behind the edge."""
MIN_PLAYED = 0.4
"""The part of the stream that is played, in its short form: joining takes some of it."""

SHORT = pytest.param(22, 1.5, id="short")
"""Seconds of media, and seconds between two kills, counted from when the list can be read and bytes are taken again."""
LONG = pytest.param(600, 20.0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(900)])


class Product:
    """All services, and what is killed."""

    def __init__(self, folder: Path, env: dict[str, str], kill_server: Callable[[], None] | None, used: Any) -> None:
        self.replicas = LiveReplicas(env, folder)
        used.callback(self.replicas.close)
        names = ("upload", "stream", "socket")
        self.services = {name: used.enter_context(run_service(f"services.{name}", folder, env)) for name in names}
        urls = {name: service.url for name, service in self.services.items()}
        urls["live"] = ",".join(replica.url for replica in self.replicas.services)
        addresses = {f"GRIDCAST_{name.upper()}_URLS": url for name, url in urls.items()}
        self.gateway: ServiceProcess = used.enter_context(run_service("gateway", folder, addresses))
        self._kill_server = kill_server
        self.kills = 0

    def kill(self) -> None:
        """Kill once more, and start again."""
        if self._kill_server is None:
            self.replicas.kill(self.kills % 2)
        else:
            self._kill_server()
        self.kills += 1


def kill_redis(server: ServerProcess) -> None:
    """Kill Redis, and start it without what it had."""
    assert send_redis_commands(server.port, "SET before 1") == "+OK\r\n"
    server.kill()
    server.start()
    assert send_redis_commands(server.port, "EXISTS before") == ":0\r\n", "Redis is empty"


def kill_mongod(server: ServerProcess) -> None:
    """Kill mongod, and start it again."""
    server.kill()
    server.start()


FAULTS = ["replica", *(["mongod"] if TEST_STORE == "gridfs" else []), "postgresql", "redis"]
"""What is killed. A run over the files store has no mongod; "postgresql" is the database of that store in each run."""


@pytest.fixture
def product(request: pytest.FixtureRequest, fault: str, tmp_path: Path) -> Iterator[Product]:
    """The services on databases that may be killed; with PostgreSQL on the files store, else on that of the run."""
    more = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0", "GRIDCAST_MIN_FREE_SPACE": "0"}
    redis: ServerProcess = request.getfixturevalue("dedicated_redis" if fault == "redis" else "redis_server")
    with contextlib.ExitStack() as used:
        if fault == "postgresql":
            server = used.enter_context(run_postgresql(request.getfixturevalue("tmp_path_factory")))
            server.execute("CREATE DATABASE gridcast", "postgres")
            url, files = server.url("gridcast"), tmp_path / "files"
            files.mkdir()
            run_in_thread(migrate(url, files))
            store = {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(files), "GRIDCAST_DATABASE_URL": url}
            env = {**store, "GRIDCAST_REDIS_URL": redis.url, **more}

            def kill_postgresql() -> None:
                server.kill()
                server.start()

            yield Product(tmp_path, env, kill_postgresql, used)
            return
        mongod = request.getfixturevalue("dedicated_mongod" if fault == "mongod" else "mongod")
        env = storage_env(mongod, redis.url, f"live_watched_{os.getpid()}_{fault}", **more)
        kills = {"mongod": lambda: kill_mongod(mongod), "redis": lambda: kill_redis(redis)}
        yield Product(tmp_path, env, kills.get(fault), used)


@pytest.fixture(scope="module")
def watcher(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the program that watches, without its arguments."""
    chromium, node = require_program("chromium", "chromium"), require_program("node", "nodejs")
    folder = npm.require(tmp_path_factory.mktemp("live_watched"), ["playwright-core"], PROGRAM, DRIVER)
    return [node, str(folder / PROGRAM.name), chromium]


@contextlib.contextmanager
def watching(watcher: list[str], url: str, stream_id: str, seconds: float) -> Iterator[Callable[[str], Any]]:
    """A browser that watches the stream to its end. Yields a function that waits for its next line, an object with this key."""
    node, program, chromium = watcher
    arguments = [url, chromium, stream_id, str(seconds)]
    with subprocess.Popen([node, program, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def next_line(key: str) -> Any:
            said = json.loads(lines.readline())
            assert key in said, said
            return said[key]

        try:
            yield next_line
        finally:
            process.terminate()


def encode(ffmpeg: str, path: Path, seconds: int) -> None:
    """Write fragments of one second of H.264 and AAC that begin with a key frame."""
    picture = f"testsrc=size=160x90:rate=25:duration={seconds}"
    command = [ffmpeg, "-v", "error", "-nostdin", "-f", "lavfi", "-i", picture]
    command += ["-f", "lavfi", "-i", f"sine=duration={seconds}", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25"]
    command += ["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "48k", "-f", "mp4"]
    command += ["-movflags", "frag_keyframe+empty_moov+default_base_moof", str(path)]
    subprocess.run(command, check=True, timeout=100)


def record(ffmpeg: str, factory: pytest.TempPathFactory, seconds: int) -> list[bytes]:
    """What a recorder gives: the initialisation, and the fragments."""
    folder = make_once(factory, f"watched-{seconds}", lambda folder: encode(ffmpeg, folder / "sample.mp4", seconds))
    data, pieces, position = (folder / "sample.mp4").read_bytes(), [b""], 0
    while position < len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind == b"moof":
            pieces.append(b"")
        pieces[-1] += data[position : position + size]
        position += size
    assert seconds <= len(pieces) - 1 <= seconds + 1
    return pieces


def send_as_recorded(sender: TusSender, pieces: list[bytes], dice: random.Random) -> None:
    """Send what is left of a recording, each fragment in two requests, when its second is over."""
    begun = time.monotonic()
    for number, piece in enumerate(pieces):
        time.sleep(max(0.0, begun + number - time.monotonic()))  # a recorder's pace: the time is the test
        cut = dice.randrange(len(piece))
        sender.send(piece[:cut])
        sender.send(piece[cut:], final=number == len(pieces) - 1)


def wait_until_taken(sender: TusSender, offset: int, sending: concurrent.futures.Future[None]) -> None:
    """Wait until bytes behind `offset` are acknowledged, or all are sent."""
    eventually(lambda: sender.offset > offset or sending.done(), PATIENCE, "bytes are taken again")


class ListReader:
    """Reads the list of a stream as a second player would, and checks it against the one before."""

    def __init__(self, gateway: ServiceProcess, client: LiveClient) -> None:
        self._url = f"{gateway.url}/live/{client.id}/media.m3u8"
        self.text = ""
        self.checked = 0

    def read(self) -> bool:
        """Whether there was a list, and not 503 or a broken connection."""
        try:
            answer = httpx.get(self._url, timeout=30)
        except httpx.TransportError:
            return False
        if answer.status_code != 200:
            assert answer.status_code in {502, 503, 504}, answer.text
            return False
        if self.text:
            check_reload(self.text, answer.text)
        check_playlist(answer.text)
        self.text = answer.text
        self.checked += 1
        return True


@pytest.mark.parametrize(("seconds", "kill_seconds"), [SHORT, LONG])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_the_player_stays(
    product: Product,
    watcher: list[str],
    ffmpeg: str,
    tmp_path_factory: pytest.TempPathFactory,
    seconds: int,
    kill_seconds: float,
) -> None:
    dice = random.Random(17)
    pieces = record(ffmpeg, tmp_path_factory, seconds)
    client = make_stream(product.replicas.services[0], filename="watched.mp4")
    sender = TusSender(client, product.replicas, dice)
    lists = ListReader(product.gateway, client)
    with (
        watching(watcher, product.gateway.url, client.id, seconds + PATIENCE) as next_line,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        sender.send(b"".join(pieces[: AHEAD + 1]))
        eventually(lists.read, 10, "there is a list")
        assert next_line("playing")
        sending = pool.submit(send_as_recorded, sender, pieces[AHEAD + 1 :], random.Random(18))
        with contextlib.suppress(TimeoutError):
            sending.result(1)
        while not sending.done():
            taken = sender.offset
            product.kill()
            eventually(lists.read, LONGEST_STALL, "the list can be read again")
            # It is in memory while a database comes back: killed again by then, that would never take a byte.
            wait_until_taken(sender, taken, sending)
            concurrent.futures.wait([sending], kill_seconds)
        sending.result()
        eventually(lambda: lists.read() and lists.text.endswith("#EXT-X-ENDLIST\n"), 20, "the list has an end")
        seen = next_line("seen")
    figures = f"{product.kills} kills, {sender.offset} bytes, {sender.failures} attempts failed, longest {sender.longest:.1f} s"
    print(f"{figures}; {lists.checked} lists; player {seen}")
    assert "failed" not in seen, seen
    sent = b"".join(pieces)
    assert product.kills >= (3 if seconds < 60 else 20)
    assert sender.offset == len(sent)
    described = eventually(client.get, 20, "the state is there")
    assert (described["state"], described["reason"]) == ("ended", "complete")
    assert described["duration"] == pytest.approx(seconds, abs=0.2)
    assert read_file(product.services["stream"], client)[BLOCK_SIZE:] == media_of(sent)
    assert "#EXT-X-DISCONTINUITY" not in lists.text, "to players it is one sender"
    made = {"sources": 1, "buffers": 1, "documents": 1, "same": True, "loads": 0, "errors": 0}
    assert {name: seen[name] for name in made} == made, "the player was made anew"
    assert (seen["back"], seen["shrunk"], seen["seeks"], seen["said"]) == (0, 0, 0, "")
    assert seen["time"] == pytest.approx(described["duration"], abs=0.5)
    assert seen["time"] - seen["began"] > seconds * MIN_PLAYED
    assert seen["stall"] < LONGEST_STALL
