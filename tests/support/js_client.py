"""The JavaScript client as its users have it: the package @gridcast/client in node_modules, and programs beside it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.local.processes import PROJECT_ROOT
from tests.support.npm import require_packages

PACKAGE_DIR = PROJECT_ROOT / "clients" / "js"
RXJS, WS, TYPESCRIPT = {"rxjs": "7.8.2"}, {"ws": "8.21.3"}, {"typescript": "5.9.3"}


def install_client(folder: Path, packages: Mapping[str, str], *programs: Path) -> Path:
    """Install the client and npm packages into `folder`, copy the programs beside them, and return it. Skips without npm."""
    require_packages(folder, packages, *programs)
    installed = folder / "node_modules" / "@gridcast" / "client"
    copied = shutil.ignore_patterns("node_modules", "types", "*.tgz")
    shutil.copytree(PACKAGE_DIR, installed, ignore=copied)
    return folder
