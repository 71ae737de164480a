"""Scenarios in one browser: a program on Node that reads their names, plays each, and prints what was seen as JSON lines.

Playwright drives Debian's Chromium. A browser takes as much to start as most scenarios take, so those of a file share one; each has
contexts of its own, as private windows are.
"""

import contextlib
import json
import select
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.npm import NpmPackages
from tests.support.programs import require_program

TIMEOUT_SECONDS = 110.0
"""Of a scenario: below the time of a test."""
EXIT_TIMEOUT_SECONDS = 20.0
DRIVER = Path(__file__).with_name("chromium.mjs")
"""Starts Chromium; programs import it."""


class ScenarioProgram:
    """Runs `node PROGRAM URL CHROMIUM ARGUMENTS` in a folder with its packages. Each scenario runs once; its result is cached."""

    def __init__(
        self, npm: NpmPackages, folder: Path, program: Path, packages: Iterable[str], url: str, *arguments: str
    ) -> None:
        chromium = require_program("chromium", "chromium")
        npm.require(folder, packages, program, DRIVER)
        self._folder = folder
        self._command = [shutil.which("node") or "node", program.name, url, chromium, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, dict[str, Any]] = {}

    def seen(self, name: str) -> dict[str, Any]:
        """Return what the scenario has seen; fails where it did not reach its end."""
        if name not in self._seen:
            try:
                self._seen[name] = self._play(name)
            except BaseException:
                self.close()  # a late line would be taken for that of the next one
                raise
        found = self._seen[name]
        assert "failed" not in found, found["failed"]
        return found

    def _play(self, name: str) -> dict[str, Any]:
        if self._process is None:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    self._command, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
        lines, names = self._process.stdout, self._process.stdin
        assert lines is not None
        assert names is not None
        names.write(f"{name}\n".encode())
        names.flush()
        ready, _, _ = select.select([lines], [], [], TIMEOUT_SECONDS)
        assert ready, f"{name} has not ended within {TIMEOUT_SECONDS:g} s"
        line = lines.readline()
        assert line, f"{name}: {self._errors.read_text('utf-8')}"
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def _errors(self) -> Path:
        return self._folder / "errors.txt"

    def close(self) -> None:
        """End the program, which closes its browser at the end of its input."""
        process, self._process = self._process, None
        if process is None:
            return
        with process, contextlib.suppress(subprocess.TimeoutExpired):
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(EXIT_TIMEOUT_SECONDS)
            return
        process.kill()
