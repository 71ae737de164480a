"""An upload is played while the database and the replicas are killed: a player that asks again loses nothing."""

import signal
import threading
import time
from pathlib import Path

import httpx

from services.common.store.play_addresses import make_play_address
from tests.support.databases import ServerProcess, needs_server, storage_env
from tests.support.migrated_databases import prepare_store
from tests.support.processes import StartService, run_service
from tests.support.sizes import CHUNK_SIZE
from tests.support.upload_client import TusUpload, tus_metadata
from tests.support.waiting import eventually

HEAD = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41" + b"\x00\x00\x04\x00moov" + bytes(1016)
DATA = HEAD + bytes(range(1, 256)) * (12 * CHUNK_SIZE // 255)
DATABASE = "test_play_faults"
DEADLINE_SECONDS = 60.0


class PersistentPlayer(threading.Thread):
    """Reads to the end as browsers do: a response that is reset, or 503, is asked for again from where it ended."""

    def __init__(self, urls: list[str], path: str) -> None:
        super().__init__(daemon=True)
        self.urls = urls
        """The last one is asked."""
        self.path = path
        self.received = b""
        self.resets = 0
        self.start()

    def run(self) -> None:
        until = time.monotonic() + DEADLINE_SECONDS
        while len(self.received) < len(DATA) and time.monotonic() < until:
            try:
                self._ask()
            except httpx.HTTPError:
                self.resets += 1
                time.sleep(0.1)

    def _ask(self) -> None:
        headers = {"range": f"bytes={len(self.received)}-"}
        with httpx.stream("GET", self.urls[-1] + self.path, headers=headers, timeout=30) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                self.received += piece

    def finish(self) -> bytes:
        self.join(DEADLINE_SECONDS)
        return self.received


def begin(upload_url: TusUpload) -> str:
    """Create the upload; returns its play address."""
    upload_url.create(length=len(DATA), headers={"upload-metadata": tus_metadata(filename="p.mp4")})
    return f"/upload/{make_play_address(upload_url.path.rpartition('/')[2])}/stream"


def send_rest(tus: TusUpload) -> None:
    """Send what is not durable, again and again until all of it is."""
    offset = 0
    while offset < len(DATA):
        offset = eventually(lambda: tus.offset() or None, 30)
        end = min(offset + 3 * CHUNK_SIZE, len(DATA))
        try:
            answer = tus.patch(offset, DATA[offset:end])
        except httpx.HTTPError:
            continue
        offset = end if answer.status_code == 204 else offset


@needs_server
def test_a_killed_database_is_waited_for(
    start_service: StartService, dedicated_mongod: ServerProcess, redis_server: ServerProcess
) -> None:
    env = storage_env(dedicated_mongod, redis_server.url, DATABASE)
    upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
    tus = TusUpload(upload)
    player = PersistentPlayer([stream.url], begin(tus))
    half = 5 * CHUNK_SIZE + 11
    assert tus.patch(0, DATA[:half]).status_code == 204
    eventually(lambda: len(player.received) == half)
    dedicated_mongod.kill()
    dedicated_mongod.start()
    send_rest(tus)
    assert player.finish() == DATA


def test_killed_replicas_lose_no_byte_of_what_is_played(
    tmp_path: Path, start_service: StartService, mongod: ServerProcess, redis_server: ServerProcess
) -> None:
    env = storage_env(mongod, redis_server.url, DATABASE, GRIDCAST_LEASE_TTL="3")
    prepare_store(env)
    second = start_service("services.stream", **env)
    with (
        run_service("services.stream", tmp_path, env) as first,
        run_service("services.upload", tmp_path, env) as killed,
    ):
        tus = TusUpload(start_service("services.upload", **env), killed)
        player = PersistentPlayer([first.url], begin(tus))
        with tus.open_patch(killed, 0, len(DATA)) as connection:
            connection.sendall(DATA[: 9 * CHUNK_SIZE])
            eventually(lambda: len(player.received) >= CHUNK_SIZE)
            killed.child.send_signal(signal.SIGKILL)
            player.urls.append(second.url)
            first.child.send_signal(signal.SIGKILL)
        send_rest(tus)
        assert player.finish() == DATA
        assert player.resets >= 1
    with httpx.Client() as http:
        assert http.get(f"{second.url}/file/stream?filename=p.mp4").content == DATA
