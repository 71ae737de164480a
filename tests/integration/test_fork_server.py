"""Services that are forked instead of executed: what they are given, and how they end."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fork_server import ForkedProcess, ForkServer

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="services are forked on Linux alone")

PROBE = """
import json, os, signal, sys

if __name__ == "__main__":
    print(json.dumps([dict(os.environ), sys.argv, os.getsid(0) == os.getpid(), len(os.listdir("/proc/self/fd"))]), flush=True)
    print("failed", file=sys.stderr)
    signal.pause() if "PAUSE" in os.environ else sys.exit(3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the module `probe`, which says what it was given."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"])))
    file = tmp_path / "probe.py"
    file.write_text(PROBE)
    return file


@pytest.fixture
def server(module: Path) -> Iterator[ForkServer]:
    server = ForkServer(module.stem)
    yield server
    server.close()


def start(server: ForkServer, output: Path, **environment: str) -> ForkedProcess:
    with output.open("ab") as file:
        return server.start(environment, file.fileno())


def test_fork_is_like_an_executed_module(server: ForkServer, module: Path, tmp_path: Path) -> None:
    for environment in ({"ONE": "1"}, {"TWO": "2"}):
        output = tmp_path / "output"
        output.write_text("")
        assert start(server, output, **environment).wait(10) == 3
        said, error = output.read_text().splitlines()
        own_descriptors = 4  # standard input, output and error, and the folder that it lists
        assert json.loads(said) == [environment, [str(module)], True, own_descriptors]
        assert error == "failed"


def test_signals_and_timeouts(server: ForkServer, tmp_path: Path) -> None:
    forks = [start(server, tmp_path / "output", PAUSE="") for _ in range(2)]
    for fork in forks:
        assert fork.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            fork.wait(0.01)
    forks[1].kill()
    assert forks[1].wait(10) == -signal.SIGKILL
    assert forks[0].poll() is None
    forks[0].send_signal(signal.SIGTERM)
    assert forks[0].wait(10) == -signal.SIGTERM
    forks[0].send_signal(signal.SIGTERM)  # as with Popen, it is not sent to a process that was waited for
    assert forks[0].poll() == -signal.SIGTERM


def test_forks_end_with_the_server(server: ForkServer, tmp_path: Path) -> None:
    fork = start(server, tmp_path / "output", PAUSE="")
    ended = select.poll()
    descriptor = os.pidfd_open(fork.pid)
    ended.register(descriptor, select.POLLIN)
    server.close()
    assert ended.poll(10_000)
    os.close(descriptor)
