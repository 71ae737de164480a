"""The wheel on CPython 3.14, which no Linux of long-term support has yet: Pyodide is that interpreter, built for WebAssembly.

It has no sockets of its own, so nothing is sent. What is installed is what pip takes for 3.14.
"""

import subprocess
import sys
from pathlib import Path

from tests.support.client_package import ClientEnvironment
from tests.support.npm import NpmPackages

RUNNER = Path(__file__).with_name("pyodide_runner.mjs")
PROGRAM = Path(__file__).with_name("pyodide_program.py")


def test_wheel_runs_on_cpython_3_14(
    npm: NpmPackages, command_line_environment: ClientEnvironment, tmp_path: Path
) -> None:
    folder = npm.require(tmp_path / "node", ["pyodide"], RUNNER)
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "install",
        "--no-compile",
        "--target",
        str(site),
    ]
    pip += ["--no-index", "--find-links", str(command_line_environment.wheel.parent), "--only-binary=:all:"]
    pip += ["--python-version", "3.14", "--implementation", "py", "--abi", "none", "--platform", "any"]
    pip += ["--no-compile"]  # for this interpreter, not for that one
    subprocess.run([*pip, "gridcast[cli]"], check=True, capture_output=True, timeout=60)
    command = ["node", RUNNER.name, str(site), str(PROGRAM)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert run.returncode == 0, run.stderr
    name, major, minor, modules, event = run.stdout.split()
    assert (name, int(major), int(minor), event) == ("cpython", 3, 14, "file.created")
    assert int(modules) >= 40
