"""Starts services as forks of a process that has imported their modules: that is nine tenths of the CPU time of a start.

`ForkServer(module, packages)` runs `python -m tests.support.fork_server`. It imports what `python -m MODULE` imports, and the
modules of packages that it would import later, and runs nothing: no module of ours does anything at import. Each `start` forks it
once; the fork runs `MODULE.__main__` with the given environment and output, in a session of its own, as if it had been executed.
What a module reads of the environment while it is imported is that of the server, so a service with other variables than GRIDCAST_*
has to be executed (`processes.run_service`).

Requests are JSON, one in a packet. `{"environment": {...}, "arguments": [...], "cwd": FOLDER}`, sent with descriptors for standard
output, error and perhaps input, is answered with a process id; `{"wait": PID}`, for a fork that has ended, with its exit code.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local import die_with_parent
from deploy.local.processes import PROJECT_ROOT

MAX_REQUEST_BYTES = 256 * 1024


class ForkServer:
    """A process that forks services of one module. It ends with this process, and its forks with it."""

    def __init__(self, module: str, packages: Sequence[str] = ()) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), module, *packages],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(
        self,
        environment: Mapping[str, str],
        output: int,
        *arguments: str,
        errors: int | None = None,
        standard_input: int | None = None,
        cwd: Path = PROJECT_ROOT,
    ) -> "ForkedProcess":
        """Fork a process with this environment and these arguments.

        Its standard output and error go to the descriptor `output`, or the latter to `errors`.
        """
        request = {"environment": dict(environment), "arguments": arguments, "cwd": str(cwd)}
        descriptors = [output, output if errors is None else errors, standard_input]
        pid = self._request(request, *(one for one in descriptors if one is not None))
        return ForkedProcess(self, pid)

    def exit_code(self, pid: int) -> int:
        """The exit code of a fork that has ended, negative for a signal."""
        return self._request({"wait": pid})

    def close(self) -> None:
        """End the server, and kill its forks."""
        self._connection.close()
        self._process.wait(30)

    def _request(self, request: Mapping[str, object], *descriptors: int) -> int:
        with self._lock:
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
            answer = self._connection.recv(64)
        assert answer, "the fork server has ended: its module cannot be imported"
        return int(answer)


class ForkedProcess(subprocess.Popen[bytes]):
    """A fork, as the `Popen` that it would be had this process started it."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server, self.pid = server, pid
        self.args, self.returncode = f"fork {pid}", None
        self.stdin = self.stdout = self.stderr = None
        self._descriptor = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        with self._lock:
            if self.returncode is None:
                ended = select.poll()
                ended.register(self._descriptor, select.POLLIN)
                if not ended.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = self._server.exit_code(self.pid)
                os.close(self._descriptor)
            return self.returncode


_servers: dict[tuple[str, ...], ForkServer] = {}


def fork_server(module: str, packages: Sequence[str] = ()) -> ForkServer:
    """The server of a module with these packages, which this process keeps until its end."""
    key = (module, *packages)
    if key not in _servers:
        _servers[key] = ForkServer(module, packages)
    return _servers[key]


def close_servers() -> None:
    """End all of them."""
    while _servers:
        _servers.popitem()[1].close()


def _serve(connection: socket.socket) -> None:
    """Answer requests until the connection ends. Returns in the forks, which have what they were given."""
    own_pid = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
        if not message:
            sys.exit(0)
        request = json.loads(message)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            connection.close()
            die_with_parent.die_with_parent(own_pid)
            os.setsid()
            for number, descriptor in zip((1, 2, 0), descriptors, strict=False):
                os.dup2(descriptor, number)
            for descriptor in set(descriptors):
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request.get("cwd", "."))
            sys.argv[1:] = request.get("arguments", [])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(answer).encode())


def main() -> None:
    """Import the module and the packages, serve, and run the module in the forks."""
    descriptor, module, *packages = sys.argv[1:]
    for package in packages:
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith(".__main__"):
                importlib.import_module(found.name)
    specification = importlib.util.find_spec(module)
    is_package = specification is not None and specification.submodule_search_locations is not None
    main_module = importlib.import_module(f"{module}.__main__" if is_package else module)
    del sys.modules[main_module.__name__]  # it is run again, as __main__
    gc.freeze()  # a collection would copy the pages of everything that was imported
    _serve(socket.socket(fileno=int(descriptor)))
    sys.argv[0] = main_module.__file__ or module
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
