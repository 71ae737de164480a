"""What .ci/run does when a step fails: failed tests are run a second time, by themselves; nothing else is.

In a folder where make and Python are stubs with a given exit code, and where nothing is installed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT

MAKEFILE = """\
test: lint
\t@echo tests >>calls; exit $(TESTS)
lint:
\t@echo lint >>calls; exit $(LINT)
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("lint", "tests", "again", "code", "calls"),
    [
        pytest.param(0, 0, 0, 0, ["lint", "tests"], id="all is well"),
        pytest.param(1, 0, 0, 1, ["lint"], id="lint"),
        pytest.param(0, 1, 0, 0, ["lint", "tests", "again"], id="late once"),
        pytest.param(0, 1, 1, 1, ["lint", "tests", "again"], id="failed twice"),
        pytest.param(0, 1, 5, 1, ["lint", "tests", "again"], id="nothing to run again"),
        pytest.param(0, 2, 0, 1, ["lint", "tests"], id="interrupted"),
        pytest.param(0, 3, 0, 1, ["lint", "tests"], id="an error of pytest itself"),
    ],
)
def test_only_failed_tests_are_run_again(
    tmp_path: Path, lint: int, tests: int, again: int, code: int, calls: list[str]
) -> None:
    write_program(tmp_path / ".ci/run", "")
    shutil.copy(PROJECT_ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "Makefile").write_text(MAKEFILE, "utf-8")
    write_program(tmp_path / ".venv/bin/python", f"echo again >>calls; exit {again}")
    for name in ("apt-get", "docker"):
        write_program(tmp_path / f"programs/{name}", "exit 1")
    stale = tmp_path / ".pytest_cache/v/cache/lastfailed"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}", "utf-8")
    run = subprocess.run(
        [str(tmp_path / ".ci/run")],
        env={**os.environ, "PATH": f"{tmp_path}/programs:{os.environ['PATH']}", "LINT": str(lint), "TESTS": str(tests)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, (tmp_path / "calls").read_text("utf-8").split()) == (code, calls), run.stdout + run.stderr
    assert not stale.exists(), "what failed before is not what failed now"
