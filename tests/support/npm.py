"""npm packages at exact versions for JavaScript clients in tests and benchmarks, installed into a temporary folder."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

INSTALL_TIMEOUT = 180.0
MIN_NODE = (20, 19)
"""Of the JavaScript client, and of Angular 21."""


class NpmUnavailable(Exception):
    """Node, npm or a package is not available; the message says which."""


def node_version() -> tuple[int, ...]:
    """Return the version of Node that is installed."""
    printed = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return tuple(int(part) for part in printed.strip().removeprefix("v").split(".")[:2])


def install_packages(target_dir: Path, packages: Mapping[str, str], *programs: Path) -> Path:
    """Install `packages` (name to version) into `target_dir`, copy `programs` beside them, and return the folder.

    Raises NpmUnavailable.
    """
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise NpmUnavailable(f"{tool} is not installed")
    if node_version() < MIN_NODE:
        raise NpmUnavailable(f"Node {'.'.join(map(str, MIN_NODE))} or newer is needed, and this is {node_version()}")
    target_dir.mkdir(parents=True, exist_ok=True)
    (target_dir / "package.json").write_text(json.dumps({"private": True, "dependencies": dict(packages)}), "utf-8")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--loglevel=error"]
    try:
        run = subprocess.run(
            command, cwd=target_dir, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise NpmUnavailable(f"npm did not install {', '.join(packages)} within {INSTALL_TIMEOUT:g} s") from None
    if run.returncode:
        raise NpmUnavailable(f"npm cannot install {', '.join(packages)}: {run.stderr.strip()[-300:]}")
    for program in programs:
        shutil.copy(program, target_dir)
    return target_dir


def require_packages(target_dir: Path, packages: Mapping[str, str], *programs: Path) -> Path:
    """Install as `install_packages`, and return the folder.

    Skips the test without Node, npm or the npm registry: they are clients and judges, and neither the product nor `make setup` has
    them.
    """
    try:
        return install_packages(target_dir, packages, *programs)
    except NpmUnavailable as error:
        pytest.skip(f"third-party clients need Node, npm and the npm registry: {error}")
