"""Services that are forked instead of executed: what they are given, and how they end."""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fork_server import ForkedProcess, ForkServer, ForkTree, connect_to_tree

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="services are forked on Linux alone")

PROBE = """
import json, os, signal, sys

if __name__ == "__main__":
    descriptors = len(os.listdir("/proc/self/fd"))
    print(json.dumps([dict(os.environ), sys.argv, os.getsid(0) == os.getpid(), descriptors, "extra" in sys.modules]), flush=True)
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
def tree(module: Path) -> Iterator[ForkTree]:
    tree = ForkTree()
    yield tree
    tree.close()


@pytest.fixture
def server(tree: ForkTree, module: Path) -> Iterator[ForkServer]:
    server = ForkServer(tree.connection, module.stem)
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
        assert json.loads(said) == [environment, [str(module)], True, own_descriptors, False]
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


def has_ended(fork: int, timeout: float) -> bool:
    """Whether the process of this pidfd ends in time."""
    ended = select.poll()
    ended.register(fork, select.POLLIN)
    return bool(ended.poll(timeout * 1000))


@pytest.mark.parametrize("closed", ["server", "tree"])
def test_forks_end_with_the_server_and_with_the_tree(
    server: ForkServer, tree: ForkTree, tmp_path: Path, closed: str
) -> None:
    descriptor = os.pidfd_open(start(server, tmp_path / "output", PAUSE="").pid)
    (server if closed == "server" else tree).close()
    assert has_ended(descriptor, 10)
    os.close(descriptor)


def test_two_processes_share_imports_and_no_forks(
    server: ForkServer, tree: ForkTree, module: Path, tmp_path: Path
) -> None:
    ours = start(server, tmp_path / "output", PAUSE="")
    with contextlib.closing(connect_to_tree(tree.address)) as connection:
        other = ForkServer(connection, module.stem)
        theirs = start(other, tmp_path / "output", PAUSE="")
        parents = {Path(f"/proc/{fork.pid}/stat").read_text().rpartition(") ")[2].split()[1] for fork in (ours, theirs)}
        assert len(parents) == 1
        descriptor = os.pidfd_open(theirs.pid)
        other.close()
        assert has_ended(descriptor, 10)
        os.close(descriptor)
    assert ours.poll() is None


def test_forks_have_what_was_asked_for(server: ForkServer, tree: ForkTree, module: Path, tmp_path: Path) -> None:
    module.with_name("extra.py").write_text("")
    with contextlib.closing(ForkServer(tree.connection, module.stem, ["extra"])) as more:
        for started_by, has_extra in ((more, True), (server, False)):
            output = tmp_path / f"output-{has_extra}"
            assert start(started_by, output).wait(10) == 3
            assert json.loads(output.read_text().splitlines()[0])[-1] is has_extra


def test_module_that_cannot_be_imported_is_an_error(tree: ForkTree, module: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with (
            contextlib.closing(ForkServer(tree.connection, "broken")) as broken,
            pytest.raises((AssertionError, OSError)),
        ):
            start(broken, tmp_path / "output")
    with contextlib.closing(ForkServer(tree.connection, module.stem)) as server:
        assert start(server, tmp_path / "output").wait(10) == 3
