"""npm packages for programs of ours: put into a temporary folder when they are needed, at exact versions, never committed."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

WITHIN = 180.0


class Missing(Exception):
    """Node, npm or a package cannot be had here; the text says why."""


def installed(folder: Path, packages: Mapping[str, str], *programs: Path) -> Path:
    """A folder with `packages` by name and version, and with copies of `programs`, which find them from there."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dict(packages)}), "utf-8")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--loglevel=error"]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"npm did not install {', '.join(packages)} within {WITHIN:g} s") from None
    if run.returncode:
        raise Missing(f"npm cannot install {', '.join(packages)}: {run.stderr.strip()[-300:]}")
    for program in programs:
        shutil.copy(program, folder)
    return folder
