"""The JavaScript client as its users have it: the package @gridcast/client in node_modules, and programs beside it."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.local.processes import PROJECT_ROOT
from tests.support.npm import NpmUnavailable, install_packages

PACKAGE_DIR = PROJECT_ROOT / "clients" / "js"
RXJS, WS, TYPESCRIPT = {"rxjs": "7.8.2"}, {"ws": "8.21.3"}, {"typescript": "5.9.3"}
TIMEOUT_SECONDS = 40.0
Output = dict[str, Any]


def install_client(folder: Path, packages: Mapping[str, str], *programs: Path) -> Path:
    """Install the client and npm packages into `folder`, copy the programs beside them, and return it. Skips without npm."""
    try:
        install_packages(folder, packages, *programs)
    except NpmUnavailable as error:
        pytest.skip(f"Node, on which the JavaScript client runs here, is not to be had: {error}")
    installed = folder / "node_modules" / "@gridcast" / "client"
    copied = shutil.ignore_patterns("node_modules", "types", "*.tgz")
    shutil.copytree(PACKAGE_DIR, installed, ignore=copied)
    return folder


class NodeProgram:
    """A running program that reads and writes JSON lines, and everything it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output: list[Output] = []

    def send_command(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    def kill(self) -> None:
        """Send SIGKILL: the page is closed without a word."""
        self._process.kill()

    def find(self, key: str) -> list[Any]:
        """The values of the printed objects that have this key."""
        return [said[key] for said in self.output if key in said]

    async def read_output(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output.append(json.loads(line))

    async def wait_until(self, check: Callable[[], object], what: str) -> None:
        """Wait until `check` is true of its output; fail after TIMEOUT_SECONDS."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not check():  # noqa: ASYNC110  # another process changes it
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"not within {TIMEOUT_SECONDS:g} s: {what}; the last that was said: {self.output[-6:]}")


@contextlib.asynccontextmanager
async def run_program(program: Path, *arguments: str) -> AsyncIterator[NodeProgram]:
    """Run a program with Node until the end of the block, where its standard input ends."""
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node",
        str(program),
        *arguments,
        cwd=program.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    running = NodeProgram(process)
    reading = asyncio.create_task(running.read_output())
    try:
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading
