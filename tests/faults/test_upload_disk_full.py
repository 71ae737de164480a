"""A full disk under MongoDB (case 100): 507 before it is full; where it fills nevertheless, nothing acknowledged is lost."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from deploy.local.processes import Program
from tests.support.databases import ServerProcess, run_server, small_mongod_program, storage_env
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import make_stream, read_file
from tests.support.processes import StartService
from tests.support.sizes import BATCH_SIZE, MIB
from tests.support.store_inspectors import MongoInspector, open_inspector
from tests.support.upload_client import put_file
from tests.support.waiting import eventually

SIZE = 800
"""MiB of the disk: a new mongod takes about 300 of them for its journal."""
DATABASE = "test_full_disk"


class TmpfsMount:
    """A small tmpfs in a mount namespace of its own, which exists as long as the process that made it."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        mount.mkdir()
        script = f"mount -t tmpfs -o size={SIZE}m tmpfs {mount} && echo ready && exec sleep 600"
        self._holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        self.made = (self._holder.stdout or contextlib.nullcontext()).readline() == "ready\n"  # type: ignore[union-attr]

    @property
    def holder_pid(self) -> int:
        """The process whose namespace has the disk."""
        return self._holder.pid

    @property
    def nsenter_command(self) -> tuple[str, ...]:
        """The prefix of a command that shall see the disk."""
        return (shutil.which("nsenter") or "", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--")

    def run(self, *command: str) -> None:
        subprocess.run([*self.nsenter_command, *command], check=True, timeout=30)

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TmpfsMount]:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("a small disk needs root, unshare and nsenter")
    disk = TmpfsMount(tmp_path / "disk")
    try:
        if not disk.made:
            pytest.skip("this system allows no mount in a namespace of its own")
        yield disk
    finally:
        disk.close()


@pytest.fixture
def mongod(disk: TmpfsMount, tmp_path: Path) -> Iterator[ServerProcess]:
    def program(folder: Path, port: int) -> Program:
        plain = small_mongod_program(folder, port)
        command = tuple(part.replace(str(folder), f"{disk.mount}/data") for part in plain.command)
        return replace(plain, command=(*disk.nsenter_command, *command))

    disk.run("mkdir", f"{disk.mount}/data")
    with run_server(tmp_path / "mongod", program) as server:
        yield server


@pytest.fixture
def env(mongod: ServerProcess, redis_server: ServerProcess) -> dict[str, str]:
    return {
        **storage_env(mongod, redis_server.url, DATABASE),
        "GRIDCAST_LEASE_TTL": "2",
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_SECOND_PURGE_DELAY": "0",
        "GRIDCAST_GC_INTERVAL": "0.5",
    }


def assert_acknowledged_files_stored(store: MongoInspector, acknowledged: dict[str, str]) -> None:
    documents = {document["filename"]: document for document in store.list_documents()}
    for name, sha256 in acknowledged.items():
        data = store.read_file(documents[name]["current"]["file"])
        assert hashlib.sha256(data).hexdigest() == sha256, name


@pytest.mark.timeout(180)
def test_507_before_the_disk_is_full_and_no_loss_on_a_full_disk(
    start_service: StartService, env: dict[str, str], mongod: ServerProcess, disk: TmpfsMount
) -> None:
    acknowledged: dict[str, str] = {}

    def fill(url: str, prefix: str) -> int:
        """Upload until an upload is rejected; return its status."""
        for number in range(1000):
            data = os.urandom(2 * BATCH_SIZE)
            name = f"{prefix}{number}"
            try:
                answer = httpx.put(f"{url}/file/stream?filename={name}", content=data, timeout=30)
            except httpx.HTTPError:
                return 0
            if answer.status_code != 201:
                return answer.status_code
            acknowledged[name] = hashlib.sha256(data).hexdigest()
        raise AssertionError("the disk is never full")

    careful = start_service("services.upload", **env, GRIDCAST_MIN_FREE_SPACE=str(250 * MIB))
    eventually(lambda: put_file(careful, "first", b"x").is_success)
    assert fill(careful.url, "careful") == 507
    assert mongod.log_tail()  # it is running
    with open_inspector(mongod.url, DATABASE) as store:
        assert_acknowledged_files_stored(store, acknowledged)
    guarded = len(acknowledged)
    reckless = start_service("services.upload", **env, GRIDCAST_MIN_FREE_SPACE="0")
    assert fill(reckless.url, "reckless") in {0, 503, 507}
    # mongod exits where its journal cannot be written; an operator frees space and starts it again.
    with contextlib.suppress(ProcessLookupError):
        mongod.kill()
    disk.run("mount", "-o", f"remount,size={2 * SIZE}m", str(disk.mount))
    mongod.start()
    with open_inspector(mongod.url, DATABASE) as store:
        assert_acknowledged_files_stored(store, acknowledged)
        assert httpx.get(f"{reckless.url}/livez").status_code == 200
        eventually(lambda: put_file(reckless, "again", b"x").is_success, 15)
        eventually(lambda: store.list_orphans() == [], 20)
    print(f"{guarded} uploads before the 507, {len(acknowledged)} before the disk was full, none lost")


@pytest.mark.timeout(120)
def test_a_live_stream_ends_in_order_before_the_disk_is_full(
    start_service: StartService, env: dict[str, str], disk: TmpfsMount
) -> None:
    """Row 34 of live streams: 507, and what came is a file with its header; no stream begins that has no room for one."""
    careful = {**env, "GRIDCAST_MIN_FREE_SPACE": str(250 * MIB), "GRIDCAST_LIVE_INTAKE_FACTOR": "0"}
    live = start_service("services.live", **careful)
    library = start_service("services.stream", **env)
    client = make_stream(live)
    sent = init() + b"".join(fragment(at, 1, fill=50_000) for at in range(6))
    assert client.patch(0, sent).status_code == 204
    is_full = False

    def body() -> Iterator[bytes]:
        """Media without an end; the disk fills in the middle."""
        nonlocal is_full
        yield init() + b"".join(fragment(at, 1, fill=50_000) for at in range(4))
        if not is_full:
            disk.run("fallocate", "-l", f"{filler}M", f"{disk.mount}/filler")
            is_full = True
        for at in range(4, 400):
            yield fragment(at, 1, fill=50_000)
            time.sleep(0.05)  # a sender in its own time

    free = shutil.disk_usage(f"/proc/{disk.holder_pid}/root{disk.mount}").free // MIB
    filler = free - 240
    stream = make_stream(live)
    assert stream.post(body()).status_code == 507
    eventually(lambda: stream.get()["state"] == "ended", 20, "it has ended")
    described = stream.get()
    assert described["reason"] == "limit of storage"
    assert described["duration"] >= 2
    assert len(read_file(library, stream)) == described["file"]["length"]
    assert client.patch(len(sent), fragment(6, 1)).status_code == 507
    eventually(lambda: client.get()["state"] == "ended", 20, "so has the other one")
    refused = httpx.post(f"{live.url}/live", json={"filename": "late.mp4"}, timeout=30)
    assert (refused.status_code, "disk space" in refused.text) == (507, True)
    disk.run("rm", f"{disk.mount}/filler")
    eventually(partial(make_stream, live), 20, "there is room again")
