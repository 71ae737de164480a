"""`make run` in a clean copy of the tree on every CPython of this machine: nothing on the PATH, then without any mongod."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.binaries import MONGOD, REDIS_SERVER
from deploy.local.ports import HOST, free_ports
from tests.e2e.test_make_run import copy_sources, environment
from tests.support.programs import require_program
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient

OLDEST = (3, 11)
HIDDEN = re.compile(r"(redis|valkey|mongo)")
"""Programs that a fresh machine does not have."""
VERSION_SCRIPT = """
import importlib.util, sys
if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
    print(sys.implementation.name, "%d.%d.%d" % sys.version_info[:3])
"""
"""Prints name and version of an interpreter that can create virtual environments. Each pytest worker runs it: it imports little."""
START_TIMEOUT_SECONDS = 540.0

pytestmark = pytest.mark.timeout(900)


def find_interpreters() -> dict[str, Path]:
    """The newest CPython of each minor version, on the PATH and in pyenv's folders; by `3.12`."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    candidates = [path for folder in folders for path in folder.glob("python3*") if "shims" not in folder.parts]
    candidates += pyenv.glob("*/bin/python3")
    found: dict[str, tuple[tuple[int, ...], Path]] = {}
    asked: set[Path] = set()
    for candidate in candidates:
        if not re.fullmatch(r"python3(\.\d+)?", candidate.name):
            continue
        # One program has several names, and the last one says the minor version.
        program = candidate.resolve()
        minor = re.fullmatch(r"python3\.(\d+)", program.name)
        if program in asked or (minor and (3, int(minor[1])) < OLDEST):
            continue
        asked.add(program)
        command = [str(candidate), "-I", "-S", "-c", VERSION_SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if match := re.match(r"cpython (\d+)\.(\d+)\.(\d+)$", done.stdout.strip()):
            version = tuple(map(int, match.groups()))
            name = f"{version[0]}.{version[1]}"
            if version[:2] >= OLDEST and version > found.get(name, ((0,), candidate))[0]:
                found[name] = (version, candidate.absolute())
    return {name: path for name, (_, path) in sorted(found.items())}


INTERPRETERS = find_interpreters()
NEWEST = max(INTERPRETERS, key=lambda version: int(version.partition(".")[2]), default="")
VERSIONS = [
    # A minute for each: an environment is made and 80 packages are installed. The newest is farthest from that of the other tests.
    pytest.param(version, marks=[] if version == NEWEST else [pytest.mark.long])
    for version in INTERPRETERS
]


class MakeRun:
    """A `make run` in a folder, with what it has said."""

    def __init__(self, folder: Path, python: Path, path: Path, data: str) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://{HOST}:{self.port}"
        self.output = folder.parent / f"{data}.out"
        self.began = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", "run", f"PYTHON={python}", f"PORT={self.port}", f"DATA={folder.parent / data}"],
                cwd=folder,
                env=environment(PATH=str(path)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def wait_until_ready(self) -> float:
        """Return the seconds since the command was given."""

        def up() -> bool:
            return self.text.endswith(f"{self.url}\n") or self.process.poll() is not None

        eventually(up, START_TIMEOUT_SECONDS, "the stack is up")
        assert self.process.poll() is None, self.text[-3000:]
        return time.monotonic() - self.began


@contextlib.contextmanager
def make_run(folder: Path, python: Path, path: Path, data: str) -> Iterator[MakeRun]:
    run = MakeRun(folder, python, path, data)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGINT)
        run.process.wait(60)
        shutil.rmtree(folder.parent / data, ignore_errors=True)


def make_path(folder: Path) -> Path:
    """A folder with all programs of this PATH but the HIDDEN ones."""
    folder.mkdir()
    for place in map(Path, os.environ["PATH"].split(os.pathsep)):
        for program in place.iterdir() if place.is_dir() and "shims" not in place.parts else ():
            if not HIDDEN.search(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return folder


async def smoke(run: MakeRun) -> None:
    """Upload, ranges, and the push of the upload's event and of one of our own."""
    content = os.urandom(1_500_000)
    listener = await WebSocketClient.connect(run)
    async with httpx.AsyncClient(base_url=run.url, timeout=30) as client:
        created = await client.post("/file/upload", files={"file": ("v.webm", content)}, data={"folder": "demo"})
        assert created.status_code == 201, created.text
        query = {"folder": "demo", "filename": "v.webm"}
        part = await client.get("/file/stream", params=query, headers={"Range": "bytes=261000-1100000"})
        assert (part.status_code, part.content) == (206, content[261000:1100001])
        assert (await client.get("/file/stream", params=query)).content == content
        assert (await listener.receive_event("file.created"))["data"]["filename"] == "v.webm"
        message = {"type": "news", "data": {"text": "hello"}}
        pushed = await client.post(f"/sockets/{listener.sid}/messages", json=message)
        assert pushed.is_success, pushed.text
        assert (await listener.receive_event("news"))["data"] == {"text": "hello"}
    await listener.close()


def test_an_interpreter_is_found() -> None:
    assert INTERPRETERS


@pytest.mark.parametrize("version", VERSIONS)
def test_one_command_starts_it(tmp_path: Path, version: str) -> None:
    require_program("make", "make")
    folder = copy_sources(tmp_path / "copy")
    path = make_path(tmp_path / "programs")
    assert not any(shutil.which(name, path=str(path)) for name in ("mongod", "redis-server", "valkey-server"))
    store = "gridfs" if MONGOD.has_wheel() else "files"
    assert REDIS_SERVER.has_wheel(), "this platform has no server of its own: see docs/operations.md"
    with make_run(folder, INTERPRETERS[version], path, "first") as run:
        seconds = run.wait_until_ready()
        assert f"store: {store}, because " in run.text
        asyncio.run(smoke(run))
    python = folder / ".venv/bin/python"
    done = subprocess.run([python, "-V"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Python {version}.")
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", MONGOD.distribution], check=True, capture_output=True
    )
    with make_run(folder, INTERPRETERS[version], path, "second") as run:
        again = run.wait_until_ready()
        assert run.text.startswith("store: files, because mongod was not found; STORE=gridfs chooses the other\n"), (
            run.text
        )
        assert "\nmongod " not in run.text
        asyncio.run(smoke(run))
    print(
        f"\nCPython {version}: up {seconds:.0f} s after the first `make run` ({store}), {again:.1f} s after the next (files)"
    )
