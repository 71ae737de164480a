"""Fixtures: environments in which nothing is installed but the wheel of clients/python and what it requires.

`client_environment` has the extra `redis`, `command_line_environment` the extra `cli`.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.processes import run_module, start_module
from tests.support.shared_folders import make_once

CLIENT_DIR = Path(__file__).parents[2] / "clients/python"
EXTRAS = ("redis", "cli")
PACKAGES = ("gridcast.cli", "gridcast.cli.commands")
"""What a command imports when it runs."""
HAS_PIP = "import pip; assert tuple(map(int, pip.__version__.split('.')[:2])) >= (22, 3)"
"""Whether an interpreter has a pip that installs into the environment of another one."""


@dataclass(frozen=True)
class ClientEnvironment:
    """The wheel, and the interpreter of the environment that it is installed in."""

    wheel: Path
    python: Path

    def run(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in `folder`, without anything that the environment of this process adds."""
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=folder,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="session")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> ClientEnvironment:
    """Built and installed offline: what it requires is packed into wheels from the environment of this process."""
    return shared_environment(tmp_path_factory, "redis")


@pytest.fixture(scope="session")
def command_line_environment(tmp_path_factory: pytest.TempPathFactory) -> ClientEnvironment:
    """The same with the command `gridcast`."""
    return shared_environment(tmp_path_factory, "cli")


def shared_environment(factory: pytest.TempPathFactory, extra: str) -> ClientEnvironment:
    """The environment with that extra, which the whole run shares."""
    (wheel,) = make_once(factory, "client-wheels", pack_wheels).glob("gridcast-*.whl")
    folder = make_once(factory, f"client-{extra}", lambda folder: install_wheel(wheel, folder / "environment", extra))
    return ClientEnvironment(wheel, folder / "environment/bin/python")


def run_gridcast(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m gridcast.cli` of this tree with the options of `run_module`."""
    return run_module("gridcast.cli", *arguments, packages=PACKAGES, **options)


def start_gridcast(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start what `run_gridcast` runs, with the options of `start_module`."""
    return start_module("gridcast.cli", *arguments, packages=PACKAGES, **options)


def pack_wheels(folder: Path) -> None:
    """Build the wheel, and pack what it requires with its extras beside it."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make setup")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(CLIENT_DIR))
    (wheel,) = folder.iterdir()
    (metadata_of_wheel,) = metadata.distributions(path=[str(wheel)])
    for name in _required(metadata_of_wheel.requires or [], set(EXTRAS), {}):
        _pack(metadata.distribution(name), folder)


def install_wheel(wheel: Path, environment: Path, extra: str, interpreter: str = sys.executable) -> ClientEnvironment:
    """Make an environment of an interpreter with the wheel, which lies in a folder of `pack_wheels`, and one of its extras."""
    subprocess.run([interpreter, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    python = environment / "bin/python"
    # Most of the modules, which are those of Pygments, are never imported: to compile all takes 5 s of CPU.
    wanted = ["install", "--no-compile", "--no-index", "--find-links", str(wheel.parent), f"gridcast[{extra}]"]
    # The pip of this process may be too old for another interpreter, and each brings its own.
    is_own = Path(interpreter).resolve() == Path(sys.executable).resolve()
    if is_own or subprocess.run([interpreter, "-c", HAS_PIP], capture_output=True, check=False).returncode == 0:
        _pip("--python", str(python), *wanted, interpreter=interpreter)
    else:
        subprocess.run([str(python), "-m", "ensurepip"], check=True, capture_output=True, timeout=100)
        _pip(*wanted, interpreter=str(python))
    return ClientEnvironment(wheel, python)


def _pip(*arguments: str, interpreter: str = sys.executable) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and name[:4] != "PIP_"}
    done = subprocess.run(
        [interpreter, "-m", "pip", "--isolated", "--disable-pip-version-check", *arguments],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _required(requirements: Iterable[str], extras: set[str], found: dict[str, None]) -> dict[str, None]:
    """The names of the distributions that requirements mean here, with all that those require."""
    for text in requirements:
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        )
        if wanted and requirement.name not in found:
            found[requirement.name] = None
            _required(metadata.requires(requirement.name) or [], set(requirement.extras), found)
    return found


def _pack(distribution: metadata.Distribution, folder: Path) -> None:
    """Write an installed pure Python distribution as a wheel into `folder`."""
    name = f"{distribution.name.replace('-', '_')}-{distribution.version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as packed:
        for path in distribution.files or ():
            if path.suffix == ".pyc" or ".." in path.parts:
                continue
            content = path.read_binary()
            if path.name == "RECORD":
                content = b"".join(line for line in content.splitlines(keepends=True) if b".pyc," not in line)
            packed.writestr(str(path), content)
