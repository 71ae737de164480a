"""npm packages at exact versions for JavaScript clients: fixture `npm` for tests, `install_packages` for benchmarks."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.shared_folders import make_once

VERSIONS = {
    "@angular/common": "21.2.26",
    "@angular/compiler": "21.2.26",
    "@angular/compiler-cli": "21.2.26",
    "@angular/core": "21.2.26",
    "@angular/platform-browser": "21.2.26",
    "@arethetypeswrong/cli": "0.18.5",
    "@asyncapi/specs": "6.11.1",
    "@types/node": "20.19.43",
    "@types/react": "19.3.3",
    "axe-core": "4.14.1",
    "esbuild": "0.28.2",
    "hls.js": "1.7.4",
    "openapi-fetch": "0.17.0",
    "openapi-typescript": "7.13.0",
    "playwright-core": "1.65.1",
    "publint": "0.3.25",
    "pyodide": "314.0.7",
    "pyright": "1.1.414",
    "react": "19.3.1",
    "rxjs": "7.8.2",
    "standardwebhooks": "1.1.1",
    "tus-js-client": "4.3.1",
    "typescript": "5.9.3",
    "vue": "3.5.45",
    "ws": "8.21.3",
}
"""Of every package that tests name."""
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
    _write_manifest(target_dir, packages)
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


def _write_manifest(folder: Path, packages: Mapping[str, str]) -> None:
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dict(packages)}), "utf-8")


class NpmPackages:
    """The packages of VERSIONS for tests: installed once in a run, linked into the folders of those who name them.

    Where several processes share a run, all are installed at once, for a process of npm takes longer than most packages do.
    """

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._failures: dict[tuple[str, ...], NpmUnavailable] = {}

    def require(self, folder: Path, names: Iterable[str], *programs: Path) -> Path:
        """Put packages into node_modules of `folder`, copy `programs` beside it, and return the folder.

        Skips the test without Node, npm or the npm registry: they are clients and judges, and neither the product nor
        `make setup` has them.
        """
        names = tuple(sorted(names))
        try:
            modules = self._install(names) / "node_modules"
        except NpmUnavailable as error:
            # `make setup` installs Python packages only: a machine may have no Node, no npm, or no way to the registry.
            pytest.skip(f"third-party clients need Node, npm and the npm registry: {error}")
        target = folder / "node_modules"
        target.mkdir(parents=True, exist_ok=True)
        if (modules / ".bin").exists():
            (target / ".bin").symlink_to(modules / ".bin")
        for name in names:
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).symlink_to(modules / name)
        _write_manifest(folder, {name: VERSIONS[name] for name in names})
        for program in programs:
            shutil.copy(program, folder)
        return folder

    def _install(self, names: tuple[str, ...]) -> Path:
        """The folder in which these packages are installed. Raises NpmUnavailable."""
        everything = tuple(sorted(VERSIONS))
        if "PYTEST_XDIST_WORKER" in os.environ and names != everything:
            with contextlib.suppress(NpmUnavailable):  # the registry may lack a package that is not in `names`
                return self._install(everything)
        if names in self._failures:
            raise self._failures[names]
        packages = {name: VERSIONS[name] for name in names}
        digest = hashlib.sha256(json.dumps(packages).encode()).hexdigest()[:12]
        try:
            return make_once(self._factory, f"npm-{digest}", lambda folder: install_packages(folder, packages))
        except NpmUnavailable as error:
            self._failures[names] = error
            raise


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> NpmPackages:
    """The npm packages of the run."""
    return NpmPackages(tmp_path_factory)
