"""Starts the stack in order, has it supervised, and stops it in reverse order."""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NoReturn

from deploy.ingest.listeners import InvalidIngestSettings
from deploy.local import binaries, databases, programs
from deploy.local.data_dir import DataDir
from deploy.local.errors import StackError
from deploy.local.ports import free_ports
from deploy.local.processes import PROJECT_ROOT, Child, Program, stop_children, wait_until_ready
from deploy.local.signals import SignalWaiter
from deploy.local.source_watcher import SourceWatcher
from deploy.local.store_choice import GRIDFS
from deploy.local.supervisor import Supervisor

READY_TIMEOUT = 30.0
"""Seconds until every child of one step must be ready."""


@dataclass(frozen=True)
class StackOptions:
    """What one run starts. With a URL, that server is used and none is started. `reload`: restart what changes in the sources.

    `ingest`: start ffmpeg's listeners as well.
    """

    port: int
    upload_replicas: int = 1
    stream_replicas: int = 1
    socket_replicas: int = 1
    live_replicas: int = 1
    ingest: bool = False
    store: str = GRIDFS
    mongodb_uri: str | None = None
    redis_url: str | None = None
    reload: bool = False


class Stack:
    """The children of one run, in the order in which they were started."""

    def __init__(self, data_dir: DataDir, signals: SignalWaiter, child_class: type[Child] = Child) -> None:
        self._data_dir = data_dir
        self._signals = signals
        self._child_class = child_class
        self._children: list[Child] = []
        self._watcher: SourceWatcher | None = None

    def start(self, options: StackOptions) -> str:
        """Start everything and return the gateway's URL. After StackError and StopRequested the started children still run."""
        if options.ingest and shutil.which("ffmpeg") is None:
            raise StackError("INGEST=1 needs ffmpeg, which is not installed")
        # Before the first import of a service: what changes from now on is newer than what they run.
        self._watcher = SourceWatcher(PROJECT_ROOT) if options.reload else None
        store, redis_url = self._start_databases(options)
        counts = {
            "upload": options.upload_replicas,
            "stream": options.stream_replicas,
            "socket": options.socket_replicas,
            "live": options.live_replicas,
        }
        kinds = [(kind, number) for kind, count in counts.items() for number in range(1, count + 1)]
        services = [
            _service_program(kind, number, port, store, redis_url)
            for (kind, number), port in zip(kinds, free_ports(len(kinds)), strict=True)
        ]
        self._start_and_wait(services)
        gateway = programs.gateway(options.port, services)
        self._start_and_wait([gateway])
        if options.ingest:
            self._start_and_wait([self._ingest_program(gateway.url)])
        return gateway.url

    def supervise(self) -> NoReturn:
        """Never returns: raises StackError when a child ends too often, StopRequested after a stop signal."""
        Supervisor(self._children, self._signals, print_status, self._watcher).run()

    def stop(self) -> list[str]:
        """Stop kind by kind, the last started first; a second Ctrl-C kills the rest at once. Returns the names of the killed."""
        killed: list[str] = []
        for kind, group in groupby(reversed(self._children), key=lambda child: child.program.kind):
            killed += stop_children(list(group), force=lambda: self._signals.force)
            print_status(f"{kind:<13} stopped")
        return killed

    def _start_databases(self, options: StackOptions) -> tuple[dict[str, str], str]:
        """Start what no URL replaces. Returns the variables of the store, and the URL of Redis."""
        starts_mongod = options.store == GRIDFS and options.mongodb_uri is None
        binaries.find_all(binaries.executables_to_start(mongod=starts_mongod, redis_url=options.redis_url))
        if options.redis_url is not None and (reason := databases.redis_url_error(options.redis_url)) is not None:
            raise StackError(f"REDIS_URL: {reason}")
        if options.store == GRIDFS and options.mongodb_uri is not None:
            reason = databases.mongodb_error(options.mongodb_uri, timeout=5.0)
            if reason is not None:
                raise StackError(f"the MongoDB of MONGODB_URI does not respond: {reason}")
        data_dir = self._data_dir
        if options.store != GRIDFS:
            data_dir.check_files_dir()
        # Other programs of the user may have these addresses in their settings.
        mongo_port, redis_port = data_dir.ports_of("mongod", "redis-server")
        servers: list[Program] = []
        if starts_mongod:
            data_dir.check_mongo_dir()
            servers.append(databases.mongod(data_dir.mongo, mongo_port, inherited_fds=(data_dir.lock_fd,)))
        if options.redis_url is None:
            servers.append(databases.redis_server(data_dir.redis, redis_port, inherited_fds=(data_dir.lock_fd,)))
        self._start_and_wait(servers)
        redis_url = options.redis_url or databases.redis_url(redis_port)
        if options.store != GRIDFS:
            return programs.files_settings(data_dir.files), redis_url
        return programs.gridfs_settings(options.mongodb_uri or databases.mongodb_uri(mongo_port)), redis_url

    def _ingest_program(self, gateway_url: str) -> Program:
        """Return the ingest, with the key of the environment, else of the last run. Raises StackError."""
        try:
            key = os.environ.get("INGEST_KEY") or self._data_dir.ingest_key()
            heartbeat = self._data_dir.root / "ingest.alive"
            heartbeat.unlink(missing_ok=True)
            return programs.ingest(gateway_url, key, heartbeat)
        except InvalidIngestSettings as error:
            raise StackError(str(error)) from None

    def _start_and_wait(self, programs: Sequence[Program]) -> None:
        started_at = time.monotonic()
        for program in programs:
            self._children.append(self._child_class(program, self._data_dir.create_log(program.name)))
        started = self._children[-len(programs) :] if programs else []
        for child in wait_until_ready(started, READY_TIMEOUT, self._signals.pause):
            print_status(child.ready_line(time.monotonic() - started_at))


def _service_program(kind: str, index: int, port: int, store: Mapping[str, str], redis_url: str) -> Program:
    match kind:
        case "upload":
            return programs.upload(index, port, store, redis_url)
        case "stream":
            return programs.stream(index, port, store, redis_url)
        case "live":
            return programs.live(index, port, store, redis_url)
        case _:
            return programs.socket(index, port, redis_url)


def print_status(text: str) -> None:
    # An error of a closed terminal must not prevent the children from being stopped.
    with contextlib.suppress(OSError):
        print(text, flush=True)
