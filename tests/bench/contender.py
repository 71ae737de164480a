"""Starts a contender: a child process that exits with this one, ready once its port responds."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.local import processes
from deploy.local.ports import HOST
from deploy.local.processes import Child, Program

READY_TIMEOUT = 30.0


def connection_error(port: int) -> str | None:
    """Why no server responds on one of our ports; None when one does."""
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError as error:
        return f"no connection ({error})"
    return None


@contextlib.contextmanager
def run_contender(
    name: str, command: Sequence[str], port: int, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The pid of `command`, given by its full path; its output goes to a file in `folder`."""
    program = Program(
        name=name,
        kind=name,
        command=tuple(command),
        url=f"http://{HOST}:{port}",
        readiness_error=lambda: connection_error(port),
        environment={**os.environ, **(env or {})},
    )
    child = Child(program, folder / f"{name}-{port}.log")
    try:
        for _ in processes.wait_until_ready([child], READY_TIMEOUT, time.sleep):
            pass
        yield child.pid
    finally:
        processes.stop_children([child])
