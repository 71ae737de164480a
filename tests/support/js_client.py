"""The JavaScript client as its users have it: the package @gridcast/client in node_modules, and programs beside it."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from deploy.local.processes import PROJECT_ROOT
from tests.support.npm import NpmPackages

PACKAGE_DIR = PROJECT_ROOT / "clients" / "js"


def install_client(npm: NpmPackages, folder: Path, packages: Iterable[str], *programs: Path) -> Path:
    """Install the client and npm packages into `folder`, copy the programs beside them, and return it. Skips without npm."""
    npm.require(folder, packages, *programs)
    installed = folder / "node_modules" / "@gridcast" / "client"
    copied = shutil.ignore_patterns("node_modules", "types", "*.tgz")
    shutil.copytree(PACKAGE_DIR, installed, ignore=copied)
    return folder
