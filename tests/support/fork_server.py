"""Starts services as forks of a process that has imported their modules: that is nine tenths of the CPU time of a start.

`python -m tests.support.fork_server` becomes a tree of processes. Each has imported one name more than its parent: the root none,
its children what `python -m MODULE` imports, theirs what a module imports later. They run nothing: no module of ours does anything
at import. A process that has all names of a `ForkServer(module, packages)` is forked once for each start; the fork runs
`MODULE.__main__` with the given environment and output, in a session of its own, as if it had been executed. What a module reads of
the environment while it is imported is that of the tree, so a service with other variables than GRIDCAST_* has to be executed
(`processes.run_service`).

The workers of a run share one tree, for the import of a service takes longer than many tests. The forks of a worker end with it.

Requests are JSON, one in a packet. `{"names": [...]}`, sent to a process of the tree with one end of a connection, leaves this
connection to the process that has imported the names. `{"environment": {...}, "arguments": [...], "cwd": FOLDER}`, sent there with
descriptors for standard output, error and perhaps input, is answered with a process id; `{"wait": PID}`, for a fork that has ended,
with its exit code.
"""

import atexit
import contextlib
import gc
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.local import die_with_parent
from deploy.local.processes import PROJECT_ROOT

MAX_REQUEST_BYTES = 256 * 1024


class ForkTree:
    """A tree of processes that fork services. It ends with this process, and all forks with it.

    Other processes connect to its `address`.
    """

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._folder = tempfile.TemporaryDirectory()  # other users have no access to it
        self.address = f"{self._folder.name}/forks.sock"
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self.address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(listener.fileno())],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), listener.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End its processes, and kill their forks."""
        self.connection.close()
        self._process.wait(30)
        self._folder.cleanup()


def connect_to_tree(address: str) -> socket.socket:
    """Connect to the tree of another process."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    return connection


class ForkServer:
    """A process that forks services of one module, in the tree to which `tree` is a connection."""

    def __init__(self, tree: socket.socket, module: str, packages: Sequence[str] = ()) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            socket.send_fds(tree, [json.dumps({"names": [module, *packages]}).encode()], [theirs.fileno()])

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
        """Kill the forks that were started here."""
        self._connection.close()

    def _request(self, request: Mapping[str, object], *descriptors: int) -> int:
        answer = "it has ended"
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
            answer = self._connection.recv(MAX_REQUEST_BYTES).decode() or answer
        assert answer.lstrip("-").isdigit(), f"the fork server does not work: {answer}"
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


class TreeProcess:
    """A process of the tree. `run` returns in the forks that are to run `module`; they have what they were given."""

    def __init__(self, parent: socket.socket, listener: socket.socket) -> None:
        self.module = ""
        self._failure = ""
        self._begin(parent, listener)

    def _begin(self, parent: socket.socket, *listeners: socket.socket) -> None:
        self._parent = parent
        self._listeners = listeners
        self._children: dict[str, socket.socket] = {}
        self._forks: dict[socket.socket, set[int]] = {}
        self._selector = selectors.PollSelector()  # no state in the kernel that a fork would share
        for connection in (parent, *listeners):
            self._selector.register(connection, selectors.EVENT_READ)

    def run(self) -> None:
        """Answer requests until the connection to the parent ends."""
        running = True
        while running:
            (key, _), *_ = self._selector.select()
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if connection in self._listeners:
                self._selector.register(connection.accept()[0], selectors.EVENT_READ)
                continue
            message, descriptors = b"", list[int]()
            with contextlib.suppress(ConnectionResetError):  # closed before an answer was read
                message, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
            if message:
                running = self._answer(connection, json.loads(message), descriptors)
            elif connection is self._parent:
                sys.exit(0)
            else:
                self._drop(connection)

    def _answer(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> bool:
        """Return whether this process still is one of the tree: False in a fork that is to run the module."""
        if "names" in request:
            self._hand_over(request["names"], descriptors)
            return True
        answer: int | str
        if self._failure:
            answer = self._failure
        elif "wait" in request:
            self._forks[connection].remove(request["wait"])
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif (answer := self._fork()) == 0:
            os.setsid()
            for number, descriptor in zip((1, 2, 0), descriptors, strict=False):
                os.dup2(descriptor, number)
            for descriptor in set(descriptors):
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request.get("cwd", "."))
            sys.argv[1:] = request.get("arguments", [])
            return False
        else:
            self._forks[connection].add(answer)
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            connection.send(str(answer).encode())
        return True

    def _hand_over(self, names: list[str], descriptors: list[int]) -> None:
        """Serve this connection, or leave it to the child that has imported the next name."""
        if not names:
            connection = socket.socket(fileno=descriptors[0])
            self._forks[connection] = set()
            self._selector.register(connection, selectors.EVENT_READ)
            return
        name, *others = names
        if name not in self._children:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if self._fork() == 0:
                ours.close()
                for descriptor in descriptors:
                    os.close(descriptor)
                try:
                    self._import(name)
                except BaseException:  # noqa: BLE001  # it is the answer to each request
                    self._failure = self._failure or traceback.format_exc()[-MAX_REQUEST_BYTES // 4 :]
                self._begin(theirs)
                return
            theirs.close()
            self._children[name] = ours
        try:
            socket.send_fds(self._children[name], [json.dumps({"names": others}).encode()], descriptors)
        except OSError:
            self._children.pop(name).close()  # it has ended
        for descriptor in descriptors:
            os.close(descriptor)

    def _import(self, name: str) -> None:
        """Import the module to run, then packages with their modules, or single modules."""
        if self.module:
            package = importlib.import_module(name)
            for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}."):
                if not found.name.endswith(".__main__"):
                    importlib.import_module(found.name)
        else:
            self.module = name
            specification = importlib.util.find_spec(name)
            is_package = specification is not None and specification.submodule_search_locations is not None
            main_module = importlib.import_module(f"{name}.__main__" if is_package else name)
            del sys.modules[main_module.__name__]  # it is run again, as __main__
            sys.argv[0] = main_module.__file__ or name
        gc.freeze()  # a collection would copy the pages of everything that was imported

    def _fork(self) -> int:
        """Fork. The fork ends with this process, and has none of its connections."""
        own_pid = os.getpid()
        if pid := os.fork():
            return pid
        die_with_parent.die_with_parent(own_pid)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        for child in self._children.values():
            child.close()
        return 0

    def _drop(self, connection: socket.socket) -> None:
        """Kill the forks of a connection that has ended."""
        self._selector.unregister(connection)
        connection.close()
        for pid in self._forks.pop(connection, set()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """Be the root of a tree; run a module in the forks that are to do so."""
    inspect.getsourcelines(main)  # compiles the tokenizer's regular expressions once, for all forks
    parent, listener = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    process = TreeProcess(parent, listener)
    process.run()
    code = None
    try:
        runpy.run_module(process.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    if code is None or isinstance(code, int):
        _exit_early(code or 0)
    sys.exit(code)


def _exit_early(code: int) -> None:
    """Run the exit steps of the interpreter but the teardown of modules, which copies the pages shared with the parent process.

    The teardown took 40 to 70 ms of CPU. Returns if stdout cannot be flushed: the interpreter then exits with status 120.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    gc.collect()  # reports coroutines never awaited and task exceptions never retrieved
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
