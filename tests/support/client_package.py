"""Fixture: an environment in which nothing is installed but the wheel of clients/python with the extra `redis`."""

import contextlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

CLIENT_DIR = Path(__file__).parents[2] / "clients/python"
# What redis-py needs of its own (before Python 3.11.3) comes along.
REDIS_DISTRIBUTIONS = ("redis", "async-timeout")


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
    """Built and installed offline: redis-py is packed into a wheel from the environment of this process."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make setup")
    folder = tmp_path_factory.mktemp("client")
    wheels = folder / "wheels"
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(CLIENT_DIR))
    (wheel,) = wheels.iterdir()
    for name in REDIS_DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            _pack(metadata.distribution(name), wheels)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    python = environment / "bin/python"
    _pip("--python", str(python), "install", "--no-index", "--find-links", str(wheels), "gridcast[redis]")
    return ClientEnvironment(wheel, python)


def _pip(*arguments: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and name[:4] != "PIP_"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", *arguments],
        env=inherited,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
