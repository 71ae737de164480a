"""Power loss under the files store: the writes and syncs of an upload service are recorded, and every beginning of them is replayed
as a disk that has lost what was not synced, or some of it. What was acknowledged by then is whole, nothing is visible in part.

The seed is printed; FAULT_SEED repeats the requests and what survives (the order of the recorded writes depends on the machine).
"""

import contextlib
import functools
import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.media import MediaInfo
from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.files import garbage_collector
from services.common.store.files.database import SQLITE_FILENAME
from services.common.store.files.media_folder import FOLDERS
from services.common.store.media_reader import ListQuery, PageKey
from tests.support.databases import ServerProcess
from tests.support.opened_stores import opened_store
from tests.support.power_loss import RecordedDisk
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import BATCH_SIZE, CHUNK_SIZE
from tests.support.store_inspectors import FilesInspector, sqlite_query
from tests.support.upload_client import OFFSET_CONTENT_TYPE, TUS_HEADERS, tus_metadata
from tests.support.waiting import eventually
from tests.support.write_recorder import Event, read_events, strace_command

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: Debian's package strace"),
]
STORE = "store"
SIZES = (0, 1, 5000, CHUNK_SIZE, CHUNK_SIZE + 3)
Rows = list[dict[str, Any]]


@dataclass
class Change:
    """One request that changes what is visible under a name; `data` is None for a deletion."""

    request_id: str
    data: bytes | None


@dataclass
class PartialUpload:
    """A tus upload: its location, all its bytes, and how many were sent by the end of each request."""

    location: str
    data: bytes
    offsets: list[tuple[str, int]] = field(default_factory=list)


class Client(threading.Thread):
    """Changes files of its own, one request after another, and notes each before it is sent."""

    def __init__(self, number: int, seed: int, url: str, operations: int, large_bytes: int = 0) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.number = number
        self.changes: dict[str, list[Change]] = {}
        self.uploads: list[PartialUpload] = []
        self.error: BaseException | None = None
        self._dice = random.Random(f"{seed} {number}")
        self._client = httpx.Client(base_url=url, timeout=60)
        self._operations = operations
        self._large_bytes = large_bytes
        self._request_count = 0

    def run(self) -> None:
        try:
            with self._client:
                for number in range(self._operations):
                    kind = self._dice.choice(("put", "put", "put", "delete", "tus", "tus", "given up"))
                    self._run_operation(kind, number)
                if self._large_bytes:  # whose offset is set after each batch
                    self._upload_with_tus(f"large {self.number}", self._dice.randbytes(self._large_bytes), finish=True)
        except BaseException as error:  # noqa: BLE001  # reported by the test
            self.error = error

    def _next_id(self) -> str:
        self._request_count += 1
        return f"power-{self.number}-{self._request_count}"

    def _run_operation(self, kind: str, number: int) -> None:
        data = self._dice.randbytes(self._dice.choice(SIZES))
        if kind in {"tus", "given up"}:
            self._upload_with_tus(f"tus {self.number} {number}", data, finish=kind == "tus")
            return
        name = f"file {self.number} {self._dice.randrange(3)}"
        before = self.changes.setdefault(name, [])
        if kind == "delete" and (not before or before[-1].data is None):
            kind = "put"
        change = Change(self._next_id(), data if kind == "put" else None)
        before.append(change)
        url, fields = f"/file/stream?filename={name}", {"x-request-id": change.request_id}
        answer = (
            self._client.put(url, content=data, headers=fields)
            if kind == "put"
            else self._client.delete(url, headers=fields)
        )
        assert answer.is_success, answer.text

    def _upload_with_tus(self, name: str, data: bytes, *, finish: bool) -> None:
        data = data + b"the end"
        request_id = self._next_id()
        head = {**TUS_HEADERS, "upload-length": str(len(data)), "upload-metadata": tus_metadata(filename=name)}
        created = self._client.post("/file/tus", headers={**head, "x-request-id": request_id})
        assert created.status_code == 201, created.text
        upload = PartialUpload(created.headers["location"], data, [(request_id, 0)])
        self.uploads.append(upload)
        ends = sorted({self._dice.randrange(1, len(data)) for _ in range(2)}) + ([len(data)] if finish else [])
        offset = 0
        for end in ends:
            request_id = self._next_id()
            upload.offsets.append((request_id, end))
            if end == len(data):
                self.changes[name] = [Change(request_id, data)]
            fields = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": str(offset), "x-request-id": request_id}
            answer = self._client.patch(upload.location, content=data[offset:end], headers=fields)
            assert answer.status_code == 204, answer.text
            offset = end


@dataclass(frozen=True)
class Recorded:
    """The system calls of an upload service with its data in `folder`, recorded in `path`, and the clients of that run."""

    folder: Path
    path: Path
    clients: list[Client]


class Expectations:
    """What must be true after a power loss, by what the clients have sent and which answers had begun to leave by then."""

    def __init__(self, clients: list[Client]) -> None:
        self.changes = {name: changes for client in clients for name, changes in client.changes.items()}
        self.uploads = [upload for client in clients for upload in client.uploads]
        self.acknowledged: set[str] = set()

    def note_answer(self, event: Event) -> None:
        """Note the request whose successful answer a call begins to send."""
        call = event.call
        if event.starts and call.name in {"sendto", "sendmsg", "write", "writev"} and call.path.startswith("socket:"):
            for data in call.strings:
                if data.startswith(b"HTTP/1.1 2") and (found := _REQUEST_ID.search(data)):
                    self.acknowledged.add(found[1].decode())

    def allowed(self, name: str) -> list[bytes | None]:
        """What may be visible under a name: what was acknowledged last, or what was sent after it."""
        changes = self.changes.get(name, [])
        known = [number for number, change in enumerate(changes) if change.request_id in self.acknowledged]
        if not known:
            return [None, *(change.data for change in changes[:1])]
        return [change.data for change in changes[known[-1] : known[-1] + 2]]

    def find_violations(self, survivors: dict[str, bytes | None], rows: dict[str, Rows]) -> list[str]:
        """Compare the rows of the tables and the files with what is allowed."""
        faults: list[str] = []
        visible = {row["filename"]: row for row in rows["media"] if row["uploaded_at"] is not None}
        for name in self.changes.keys() | visible.keys():
            data = None
            if (row := visible.get(name)) is not None:
                data = read_file(survivors, row["file_id"]) or b""
                if (len(data), sha256_hex(data)) != (row["length"], row["sha256"]):
                    faults.append(f"{name}: {len(data)} bytes of {row['length']}, or others")
                    continue
            if data not in self.allowed(name):
                faults.append(
                    f"{name}: {'lost' if data is None else f'{len(data)} bytes that were replaced or deleted'}"
                )
        return faults + [fault for upload in self.uploads for fault in self._check_upload(upload, survivors, rows)]

    def _check_upload(
        self, upload: PartialUpload, survivors: dict[str, bytes | None], rows: dict[str, Rows]
    ) -> Iterator[str]:
        known = [offset for request_id, offset in upload.offsets if request_id in self.acknowledged]
        if not known or known[-1] == len(upload.data):  # then its file is compared
            return
        record_id = upload.location.rpartition("/")[2].split("-")[1]
        if any(row["id"] == record_id for row in rows["finished_uploads"]):
            return
        row = next((row for row in rows["uploads"] if row["id"] == record_id), None)
        if row is None:
            yield f"{upload.location}: lost"
        elif row["offset"] < known[-1]:
            yield f"{upload.location}: {row['offset']} bytes are left of {known[-1]}"
        elif (read_file(survivors, row["file_id"]) or b"")[: row["offset"]] != upload.data[: row["offset"]]:
            yield f"{upload.location}: its bytes are lost or others"


@functools.lru_cache
def sha256_hex(data: bytes) -> str:
    """The same files stay for hundreds of states."""
    return hashlib.sha256(data).hexdigest()


def read_file(survivors: dict[str, bytes | None], file_id: str) -> bytes | None:
    return survivors.get(f"{STORE}/files/{file_id[-2:]}/{file_id[-3]}/{file_id}")


_REQUEST_ID = re.compile(rb"\r\nx-request-id: (power-[0-9-]+)\r\n", re.IGNORECASE)
TABLES = ("media", "uploads", "finished_uploads", "tombstones")


def read_tables(survivors: dict[str, bytes | None], folder: Path) -> dict[str, Rows]:
    """The rows of SQLite's file as SQLite finds them after the power loss; none before there are tables."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for suffix in ("", "-wal", "-journal"):
        if (data := survivors.get(f"{STORE}/{SQLITE_FILENAME}{suffix}")) is not None:
            (folder / f"{SQLITE_FILENAME}{suffix}").write_bytes(data)
    with contextlib.closing(sqlite3.connect(folder / SQLITE_FILENAME)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = OFF")  # of what this connection writes when it is closed
        assert [row[0] for row in connection.execute("PRAGMA integrity_check")] == ["ok"]
        if not connection.execute("SELECT * FROM sqlite_master WHERE name = 'media'").fetchall():
            return {table: [] for table in TABLES}
        return {table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in TABLES}


def record(
    folder: Path, redis: ServerProcess, seed: int, clients: int, operations: int, large_bytes: int = 0
) -> tuple[Path, list[Client]]:
    """Run clients against a recorded service until its garbage is collected, then kill it. The first ends with a large upload."""
    recording = folder / "recording"
    env = {
        "GRIDCAST_STORE": "files",
        "GRIDCAST_FILES_DIR": str(folder / "disk" / STORE),
        "GRIDCAST_REDIS_URL": redis.url,
        "GRIDCAST_TOMBSTONE_TTL": "0",
        "GRIDCAST_GC_INTERVAL": "0.3",
        "GRIDCAST_LOG_LEVEL": "warning",
    }
    (folder / "disk").mkdir()
    with run_service("services.upload", folder, env, wrapper=strace_command(recording)) as service:
        threads = [
            Client(number, seed, service.url, operations, 0 if number else large_bytes) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(500)
        assert [thread.error for thread in threads if thread.error] == []
        store = folder / "disk" / STORE
        inspector = FilesInspector(store, sqlite_query(store / SQLITE_FILENAME))
        eventually(lambda: not any(entry["doomed"] for entry in inspector.list_documents()), 60)
        kill_traced(service)
        assert "Traceback" not in service.log
    return recording, threads


def kill_traced(service: ServiceProcess) -> None:
    """Send SIGKILL to the program that strace runs; strace ends with it."""
    (pid,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text("ascii").split()
    os.kill(int(pid), signal.SIGKILL)
    assert service.child.wait(20)


@pytest.mark.parametrize(
    ("clients", "operations", "large_bytes", "random_states", "opened_states"),
    [
        pytest.param(3, 8, 0, 2, 10, marks=pytest.mark.timeout(300)),
        pytest.param(4, 30, 0, 4, 100, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
        pytest.param(1, 2, 5 * BATCH_SIZE, 4, 5, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
async def test_acknowledged_files_survive_and_others_are_invisible(
    redis_server: ServerProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clients: int,
    operations: int,
    large_bytes: int,
    random_states: int,
    opened_states: int,
) -> None:
    """After every beginning of the recording: strictly what was synced, and some random choices of the rest."""
    monkeypatch.setattr(garbage_collector, "MIN_ORPHAN_AGE", timedelta(hours=-1))
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}")
    recording, threads = record(tmp_path, redis_server, seed, clients, operations, large_bytes)
    expected = Expectations(threads)
    dice = random.Random(seed)
    events = list(read_events(recording))
    every = max(1, sum(is_synced(event) for event in events) // opened_states)
    disk = RecordedDisk(str(tmp_path / "disk"))
    states = opened = 0
    faults: list[str] = []
    for event in events:
        if is_synced(event):
            # Before the sync has its effect: all beginnings since the last one have left the same, and had fewer answers.
            for chosen in (None, *[dice] * random_states):
                survivors = disk.survivors(chosen)
                faults += check(expected, survivors, tmp_path)
                states += 1
            if disk.sync_count % every == 0:
                faults += await open_and_check(expected, disk.survivors(dice), tmp_path / "opened")
                opened += 1
        expected.note_answer(event)
        disk.add(event)
    faults += check(expected, disk.survivors(), tmp_path)
    acknowledged = len(expected.acknowledged)
    print(f"{acknowledged} answers, {disk.sync_count} syncs, {states} states, {opened} opened, {len(faults)} faults")
    assert faults == []
    assert acknowledged == sum(thread._request_count for thread in threads)


def is_synced(event: Event) -> bool:
    """Whether a sync ends with it."""
    return event.ends and event.call.name in {"fsync", "fdatasync"}


def check(expected: Expectations, survivors: dict[str, bytes | None], folder: Path) -> list[str]:
    return expected.find_violations(survivors, read_tables(survivors, folder / "tables"))


async def open_and_check(expected: Expectations, survivors: dict[str, bytes | None], folder: Path) -> list[str]:
    """Start the store on what is left, read all files through it, collect all garbage, and look for files without a row."""
    write_survivors(survivors, folder)
    settings = StoreSettings(store="files", files_dir=str(folder / STORE))
    async with opened_store(settings) as store:
        await store.uploads.check_health()
        async for media_id in store.garbage.list_due():
            await store.garbage.collect(media_id)
        for _ in range(FOLDERS):
            await store.garbage.delete_orphans()
            if not garbage_is_left(store):
                break
        visible: dict[str, bytes] = {}
        async for info in list_all(store):
            count = -(-info.length // CHUNK_SIZE)
            visible[info.filename] = b"".join(await store.reader.read_blocks(info, 0, count - 1)) if count else b""
    wrong = [name for name in expected.changes if visible.get(name) not in expected.allowed(name)]
    inspector = FilesInspector(folder / STORE, sqlite_query(folder / STORE / SQLITE_FILENAME))
    orphans = [f"orphan {name}" for name in inspector.list_orphans()]
    return [*(f"{name}: lost or replaced, as the store reads it" for name in wrong), *orphans]


def write_survivors(survivors: dict[str, bytes | None], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, data in survivors.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def garbage_is_left(store: MediaStore) -> bool:
    """Whether the search for orphans has not come around yet."""
    return bool(store.garbage._next_folder)  # type: ignore[attr-defined]


async def list_all(store: MediaStore) -> AsyncIterator[MediaInfo]:
    after: PageKey | None = None
    while True:
        page = await store.reader.list_files(ListQuery(after=after, limit=500))
        for info in page.files:
            yield info
        if (after := page.next_key) is None:
            return


@pytest.fixture(scope="module")
def recorded(redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One recording for all replays: to start a service under strace takes seconds of CPU."""
    folder = tmp_path_factory.mktemp("recorded")
    return Recorded(folder, *record(folder, redis_server, 1, 1, 10))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lost", ["files", "folders", "database"])
async def test_the_replay_finds_syncs_that_are_missing(recorded: Recorded, tmp_path: Path, lost: str) -> None:
    """The same recording, without the syncs of one kind, as if the store had forgotten them. One fault is enough."""
    expected = Expectations(recorded.clients)
    disk = RecordedDisk(str(recorded.folder / "disk"))
    faults: list[str] = []
    for event in read_events(recorded.path):
        if event.call.name in {"fsync", "fdatasync"} and is_forgotten(event.call.path, lost):
            continue
        expected.note_answer(event)
        if disk.add(event):
            with contextlib.suppress(AssertionError, sqlite3.DatabaseError):
                faults += check(expected, disk.survivors(), tmp_path)
        if faults:
            break
    else:
        faults += check(expected, disk.survivors(), tmp_path)
    assert faults != []


def is_forgotten(path: str, lost: str) -> bool:
    name = path.rpartition("/")[2]
    is_database = SQLITE_FILENAME in name
    is_file = len(name) == 24
    return {"files": is_file, "folders": not is_file and not is_database, "database": is_database}[lost]
