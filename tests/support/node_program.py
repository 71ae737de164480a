"""A JavaScript program on Node that reads and writes JSON lines: other people's WebSocket clients, and our own."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

TIMEOUT_SECONDS = 40.0
EXIT_TIMEOUT_SECONDS = 10.0


class NodeProgram:
    """A running program, and everything it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output: list[dict[str, Any]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, program: Path, *arguments: str) -> AsyncIterator[Self]:
        """Run a program until the end of the block, where its standard input ends."""
        process = await asyncio.create_subprocess_exec(
            shutil.which("node") or "node",
            str(program),
            *arguments,
            cwd=program.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        running = cls(process)
        reading = asyncio.create_task(running._read_output())
        try:
            yield running
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), EXIT_TIMEOUT_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
            await reading

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output.append(json.loads(line))

    def send_command(self, **command: Any) -> None:
        """Write one line to the program."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    def kill(self) -> None:
        """Send SIGKILL: the page is closed without a word."""
        self._process.kill()

    def find(self, key: str) -> list[Any]:
        """Return the values of the printed objects that have this key."""
        return [line[key] for line in self.output if key in line]

    async def wait_until(self, check: Callable[[], object], what: str) -> None:
        """Wait until `check` is true of the output; fail after TIMEOUT_SECONDS, naming what was awaited."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not check():  # noqa: ASYNC110  # another process changes it
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"not within {TIMEOUT_SECONDS:g} s: {what}; last printed: {self.output[-6:]}")
