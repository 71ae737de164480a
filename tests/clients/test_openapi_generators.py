"""Clients that generators make of the gateway's OpenAPI document: nothing of it is left out, and every operation works.

The generators come from PyPI and npm at exact versions; where they are not available, these tests are skipped and say so.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.npm import NpmPackages
from tests.support.stack import Stack

GENERATOR = "openapi-python-client==0.29.1"
PACKAGES = ["openapi-typescript", "openapi-fetch", "typescript", "@types/node"]
HERE = Path(__file__).parent
TIMEOUT_SECONDS = 120


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture
def document(stack: Stack, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(httpx.get(f"{stack.url}/openapi.json", timeout=30).content)
    return path


@contextlib.contextmanager
def connected_sid(stack: Stack) -> Iterator[str]:
    with connect(stack.url.replace("http", "ws", 1) + "/ws") as connection:
        yield json.loads(connection.recv(10))["sid"]


def operation_ids(document: Path) -> set[str]:
    paths = json.loads(document.read_text("utf-8"))["paths"]
    return {operation["operationId"] for item in paths.values() for operation in item.values()}


def test_ids_and_title_are_chosen(document: Path) -> None:
    """A generated id repeats the path and the method; generators make names of functions and packages of these."""
    whole = json.loads(document.read_text("utf-8"))
    assert whole["info"]["title"] == "Gridcast"
    operations = [operation for item in whole["paths"].values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for one in ids:
        assert re.fullmatch(r"[a-z]+(_[a-z]+){1,3}", one), one
        assert not re.search("_(get|put|post|delete)$", one), one
    assert {tag for operation in operations for tag in operation["tags"]} == {
        "files",
        "tus",
        "sockets",
        "auth",
        "health",
        "webhooks",
        "live",
    }


def test_openapi_python_client(stack: Stack, document: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    commands: tuple[list[str | Path], ...] = (
        [
            sys.executable,
            "-m",
            "venv",
            "--without-pip",
            venv,
        ],  # to install pip and to compile what is installed takes 8 s
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile", GENERATOR],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        assert done.returncode == 0, done.stderr  # from the index that `make setup` has used
    config = tmp_path / "config.yml"
    # Hooks would format the package. Without a word the generator leaves out answers of types that it does not know.
    binary = ("application/vnd.apple.mpegurl", "video/mp4", "multipart/byteranges")
    overrides = "".join(f"  {media_type}: application/octet-stream\n" for media_type in binary)
    config.write_text(f"post_hooks: []\ncontent_type_overrides:\n{overrides}")
    generator = venv / "bin" / "openapi-python-client"
    said = run(
        *(generator, "generate", "--path", document, "--output-path", tmp_path / "made", "--config", config),
        *("--fail-on-warning",),
        cwd=tmp_path,
    )
    assert "WARNING" not in said
    made = {path.stem for path in (tmp_path / "made" / "gridcast_client" / "api").glob("*/*.py")} - {"__init__"}
    assert made == operation_ids(document)
    program = shutil.copy(HERE / "openapi_python_program.py", tmp_path / "made")
    with connected_sid(stack) as sid:
        run(python, program, stack.url, sid, cwd=tmp_path)


def test_openapi_typescript(npm: NpmPackages, stack: Stack, document: Path, tmp_path: Path) -> None:
    folder = npm.require(tmp_path / "node", PACKAGES, HERE / "openapi_fetch_program.ts")
    package = json.loads((folder / "package.json").read_text("utf-8"))
    (folder / "package.json").write_text(json.dumps({**package, "type": "module"}), "utf-8")
    programs = folder / "node_modules" / ".bin"
    run(programs / "openapi-typescript", document, "-o", "api.d.ts", cwd=folder)
    types = (folder / "api.d.ts").read_text("utf-8")
    for one in operation_ids(document):
        assert re.search(rf"\b{one}: {{", types), one
    options = [
        "--strict",
        "--skipDefaultLibCheck",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom,dom.iterable",
    ]
    run(programs / "tsc", *options, "--types", "node", "openapi_fetch_program.ts", cwd=folder)
    with connected_sid(stack) as sid:
        run("node", "openapi_fetch_program.js", stack.url, sid, cwd=folder)
