"""Two replicas of the live service on one store of a kind, of which one can be held at a step of a change of files.

Fixture: `pair`, on the store of the fixture `stores`.
"""

import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.common.settings import StoreSettings
from tests.support.databases import ServerProcess
from tests.support.fault_proxy import FaultProxy, run_fault_proxy
from tests.support.fragmented_mp4 import fragment, init
from tests.support.processes import ServiceProcess, run_service

SHUTDOWN_TIMEOUT = 3.0
FIRST = init() + fragment(0, 2) + fragment(2, 2, fill=300_000)
SECOND = init(size=(90, 160)) + fragment(0, 2) + fragment(2, 2, fill=200)
STEPS = {"the note": b"closing ", "the commit": b"video/mp4", "the upload": b" (2).mp4"}
"""Steps of a change, and what the first bytes for the database have that belong to one."""


@dataclass
class Pair:
    """`held` is behind the proxy, where the database is a server; `free` and the stream service `library` are not."""

    held: ServiceProcess
    free: ServiceProcess
    library: ServiceProcess
    proxy: FaultProxy | None
    sqlite: Path | None


@pytest.fixture
def pair(stores: list[StoreSettings], redis_server: ServerProcess, tmp_path: Path) -> Iterator[Pair]:
    settings = stores[0]
    common = {
        "GRIDCAST_STORE": settings.store,
        "GRIDCAST_REDIS_URL": redis_server.url,
        "GRIDCAST_LIVE_INTAKE_FACTOR": "0",
        "GRIDCAST_MIN_FREE_SPACE": "0",
        "GRIDCAST_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
    }
    url = settings.mongodb_uri.get_secret_value()
    common["GRIDCAST_MONGODB_DATABASE"], name = settings.mongodb_database, "GRIDCAST_MONGODB_URI"
    if settings.store == "files":
        url = settings.database_url.get_secret_value()
        common["GRIDCAST_FILES_DIR"], name = settings.files_dir, "GRIDCAST_DATABASE_URL"
    with contextlib.ExitStack() as running:
        env, proxy, sqlite = {**common, name: url}, None, None
        behind = env
        if url:
            port = int(url.rpartition(":")[2].partition("/")[0])
            proxy = running.enter_context(run_fault_proxy(port))
            behind = {**common, name: url.replace(f":{port}", f":{proxy.port}")}
        else:
            sqlite = Path(settings.files_dir) / "gridcast.sqlite3"
        free = running.enter_context(run_service("services.live", tmp_path, env))
        library = running.enter_context(run_service("services.stream", tmp_path, env))
        held = running.enter_context(run_service("services.live", tmp_path, behind))
        yield Pair(held, free, library, proxy, sqlite)


class Termination:
    """A process that has been sent SIGTERM."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._began = time.monotonic()
        service.child.send_signal(signal.SIGTERM)

    def wait_for_exit(self, margin: float) -> None:
        """It ends with 0, so many seconds after its shutdown timeout at the latest."""
        assert self._service.child.wait(60.0), "it does not end"
        took = time.monotonic() - self._began
        assert self._service.child.exit_summary().partition(":")[0].endswith(" ended with exit code 0")
        assert took < SHUTDOWN_TIMEOUT + margin
        assert "Traceback" not in self._service.log


@contextlib.contextmanager
def locked_in_a_change(path: Path, stream_id: str, is_over: Callable[[], bool]) -> Iterator[bool]:
    """Lock an SQLite database while the file of a stream is closed. False where the change was over before it was seen."""
    statement = f"SELECT publisher FROM live WHERE id = '{stream_id}'"
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:

        def is_closing() -> bool:
            (publisher,) = database.execute(statement).fetchone()
            return bool(json.loads(publisher).startswith("closing "))

        while not is_over():
            with contextlib.suppress(sqlite3.OperationalError):
                if is_closing():
                    database.execute("BEGIN IMMEDIATE")
                    if is_closing():
                        yield True
                        return
                    database.execute("ROLLBACK")
        yield False


def status_of(send: Callable[[], httpx.Response]) -> int:
    """The status of an answer; 0 where the connection was closed without one."""
    try:
        return send().status_code
    except httpx.TransportError:
        return 0
