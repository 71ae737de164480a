"""The stack: what is started in which order, watched, and stopped in reverse.

Knows no signal number, no exit code and no environment.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from deploy.local import replicas, servers
from deploy.local.failure import Failure
from deploy.local.folder import DataFolder
from deploy.local.ports import free_ports
from deploy.local.processes import Child, Program, each_ready, stop
from deploy.local.signals import Signals

READY_WITHIN = 30.0


@dataclass(frozen=True)
class Wanted:
    """What one run shall start. An address that is given is used instead of a server of our own."""

    port: int
    uploads: int = 1
    streams: int = 1
    sockets: int = 1
    mongodb_uri: str | None = None
    redis_url: str | None = None


class Stack:
    """The children of one run, in the order in which they were started."""

    def __init__(self, folder: DataFolder, signals: Signals) -> None:
        self._folder = folder
        self._signals = signals
        self._children: list[Child] = []

    def start(self, wanted: Wanted) -> str:
        """Starts all of it and gives the address. Raises Failure or Stopped, with the children so far still running."""
        mongodb_uri, redis_url = self._start_servers(wanted)
        counts = {"upload": wanted.uploads, "stream": wanted.streams, "socket": wanted.sockets}
        kinds = [(kind, number) for kind, count in counts.items() for number in range(1, count + 1)]
        services = [
            _service(kind, number, port, mongodb_uri, redis_url)
            for (kind, number), port in zip(kinds, free_ports(len(kinds)), strict=True)
        ]
        self._start_together(services)
        gateway = replicas.gateway(wanted.port, services)
        self._start_together([gateway])
        return gateway.address

    def watch(self) -> None:
        """Returns never: raises Failure when a child has ended, Stopped when the end is asked for."""
        while True:
            for child in self._children:
                if not child.running:
                    raise Failure(child.obituary())
            self._signals.pause()

    def stop(self) -> list[str]:
        """Stops kind by kind, the last started first; kills at once where somebody is impatient. Gives the killed."""
        killed: list[str] = []
        for kind, group in groupby(reversed(self._children), key=lambda child: child.program.kind):
            killed += stop(list(group), hurry=lambda: self._signals.impatient)
            say(f"{kind:<13} stopped")
        return killed

    def _start_servers(self, wanted: Wanted) -> tuple[str, str]:
        if wanted.mongodb_uri is not None:
            reason = servers.silence(wanted.mongodb_uri, within=5.0)
            if reason is not None:
                raise Failure(f"the MongoDB of MONGODB_URI does not answer: {reason}")
        mongo_port, redis_port = free_ports(2)
        folder = self._folder
        own: list[Program] = []
        if wanted.mongodb_uri is None:
            own.append(servers.mongod(folder.mongo, mongo_port, holds=(folder.lock,)))
        if wanted.redis_url is None:
            own.append(servers.redis_server(folder.redis, redis_port))
        self._start_together(own)
        return wanted.mongodb_uri or servers.mongodb_uri(mongo_port), wanted.redis_url or servers.redis_url(redis_port)

    def _start_together(self, programs: Sequence[Program]) -> None:
        began = time.monotonic()
        for program in programs:
            self._children.append(Child(program, self._log(program)))
        fresh = self._children[-len(programs) :] if programs else []
        for child in each_ready(fresh, READY_WITHIN, self._signals.pause):
            took = time.monotonic() - began
            say(f"{child.program.name:<13} ready in {took:4.1f} s  pid {child.pid:<8} {child.program.address}")

    def _log(self, program: Program) -> Path:
        return self._folder.logs / f"{program.name}.log"


def _service(kind: str, number: int, port: int, mongodb_uri: str, redis_url: str) -> Program:
    match kind:
        case "upload":
            return replicas.upload(number, port, mongodb_uri, redis_url)
        case "stream":
            return replicas.stream(number, port, mongodb_uri, redis_url)
        case _:
            return replicas.socket(number, port, redis_url)


def say(text: str) -> None:
    # A terminal that has gone must not keep the children from being stopped.
    with contextlib.suppress(OSError):
        print(text, flush=True)
