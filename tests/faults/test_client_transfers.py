"""The command line under SIGKILL, of itself and of the services: the same bytes, little sent again, little memory.

One upload and one download, each killed at positions spread over the file. What is sent again is counted by a proxy before the
gateway.
"""

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.client_package import start_gridcast
from tests.support.counting_proxy import CountingProxy, run_counting_proxy
from tests.support.process_stats import peak_memory
from tests.support.sizes import MIB
from tests.support.stack import Stack, run_forked_stack
from tests.support.waiting import eventually

PART_BYTES = 2 * MIB
AGAIN_BYTES_PER_CUT = 2 * MIB
"""Transferred a second time, on average over the cuts."""
HEAD_BYTES_PER_PART = 1024
MEMORY_BYTES = 64 * MIB


@dataclass(frozen=True)
class Scale:
    """How large the file is, and how often the client and a service are killed."""

    size: int
    client_kills: int
    service_kills: int


SCALES = [
    pytest.param(Scale(96 * MIB + 1, 4, 2), id="short"),
    pytest.param(Scale(5 * 1024 * MIB + 1, 20, 5), id="long", marks=[pytest.mark.long, pytest.mark.timeout(3000)]),
]


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes may be killed."""
    with run_forked_stack(tmp_path_factory.mktemp("transfers") / "data") as stack:
        yield stack
    stack.delete_data()


def write_file(path: Path, size: int) -> str:
    """Write a file with holes, of which each MiB differs, and return its SHA-256."""
    seed = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size - 4096, MIB):
            file.seek(start)
            file.write(seed.randbytes(4096))
    return hash_file(path)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Command:
    """A command of the client that is killed and started again, until it has ended by itself."""

    def __init__(self, folder: Path, url: str, *arguments: str) -> None:
        self._arguments = arguments
        self._env = {**os.environ, "GRIDCAST_URL": url, "XDG_STATE_HOME": str(folder / "state")}
        self._log = folder / "client.log"
        self.peak = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return start_gridcast(*self._arguments, env=self._env, output=self._log)

    def poll(self) -> int | None:
        """Measure the memory and return the exit code, None while it runs."""
        code = self.process.poll()
        if code is None:
            try:
                self.peak = max(self.peak, peak_memory(self.process.pid))
            except (OSError, IndexError):  # it ends just now
                return self.process.poll()
        return code

    def kill(self) -> None:
        """Kill it and start it again."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")


def kill_on_the_way(
    command: Command, position: Callable[[], int], scale: Scale, kill_service: Callable[[], None]
) -> int:
    """Kill client and service in turn as the position grows, and return the number of cuts. Fails if the command does."""
    kills = ["client"] * scale.client_kills + ["service"] * scale.service_kills
    random.Random(scale.size).shuffle(kills)
    deadline = time.monotonic() + 2800
    cuts = 0
    while (code := command.poll()) is None:
        assert time.monotonic() < deadline
        if cuts < len(kills) and position() > (cuts + 1) * scale.size // (len(kills) + 1):
            if kills[cuts] == "client":
                command.kill()
            else:
                kill_service()
            cuts += 1
        time.sleep(0.01)
    assert code == 0, command.log
    assert cuts == len(kills), "the file was too small for all cuts"
    return cuts


def kill_service(stack: Stack, name: str) -> None:
    """Kill a service; the runner starts it again."""
    before = len(stack.restart_lines)
    os.kill(stack.pids[name], signal.SIGKILL)
    eventually(lambda: len(stack.restart_lines) > before, 20, f"{name} was started again")


@pytest.fixture
def proxy(own_stack: Stack) -> Iterator[CountingProxy]:
    with run_counting_proxy(own_stack.port) as proxy:
        yield proxy


@pytest.mark.parametrize("scale", SCALES)
def test_upload_and_download_over_kills(scale: Scale, own_stack: Stack, proxy: CountingProxy, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    sha256 = write_file(source, scale.size)
    name = f"kills/{scale.size}.bin"
    command = Command(tmp_path, proxy.url, "upload", str(source), "--to", name)
    cuts = kill_on_the_way(command, lambda: proxy.sent, scale, lambda: kill_service(own_stack, "upload-1"))
    resent = proxy.sent - scale.size - HEAD_BYTES_PER_PART * (scale.size // PART_BYTES + 100)
    print(
        f"upload: {cuts} cuts, {max(resent, 0) / cuts / MIB:.2f} MiB again per cut, {command.peak / MIB:.1f} MiB of memory"
    )
    stored = httpx.get(f"{own_stack.url}/file/info", params={"folder": "kills", "filename": f"{scale.size}.bin"}).json()
    assert (stored["sha256"], stored["length"]) == (sha256, scale.size)
    assert resent <= cuts * AGAIN_BYTES_PER_CUT
    assert command.peak <= MEMORY_BYTES
    assert list((tmp_path / "state/gridcast/uploads").iterdir()) == [], "the state file was left behind"

    source.unlink()
    target = tmp_path / "target.bin"
    command = Command(tmp_path, proxy.url, "download", name, "--output", str(target))
    cuts = kill_on_the_way(command, lambda: proxy.received, scale, lambda: kill_service(own_stack, "stream-1"))
    again = proxy.received - scale.size
    print(f"download: {cuts} cuts, {again / cuts / MIB:.2f} MiB again per cut, {command.peak / MIB:.1f} MiB of memory")
    assert hash_file(target) == sha256
    assert again <= cuts * AGAIN_BYTES_PER_CUT
    assert command.peak <= MEMORY_BYTES
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
