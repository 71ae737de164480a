"""The rules of the house, and that the tools which hold them really do."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def tracked_files() -> list[Path]:
    """What is in the repository, or would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("services/upload/app.py", "import services.stream.app"),
        ("services/common/errors.py", "import services.upload.endpoints.put"),
        ("gateway/routes.py", "import services.socket.hub"),
        ("services/stream/api.py", "import motor.motor_asyncio"),
        ("services/upload/outbox.py", "import redis"),
        ("services/stream/ranges.py", "import asyncio"),
        ("services/upload/endpoints/put.py", "import gateway.routes"),
        ("services/socket/app.py", "import deploy.local.ports"),
        ("services/socket/hub.py", "import services.common.telemetry.metrics"),
        ("services/socket/sessions.py", "import services.socket.connection"),
        ("gateway/settings.py", "import deploy.containers.healthcheck"),
        ("services/common/errors.py", "import gateway.upstream.response_parser"),
        ("gateway/upstream/connection_pool.py", "import httpx"),
        ("services/common/http/encoding.py", "import asyncio"),
        ("services/common/http/encoding.py", "import services.common.server.transport"),
        ("services/common/server/connection.py", "import uvicorn"),
        ("services/upload/writer/upload_writer.py", "import aiohttp"),
    ],
)
def test_a_broken_import_contract_fails_the_lint(tmp_path: Path, where: str, line: str) -> None:
    """Each on a copy of the code into which that one line was put."""
    for part in ("services", "gateway", "deploy", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)
    path = tmp_path / where
    path.write_text(f"{path.read_text('utf-8')}\n{line}\n", "utf-8")
    run = subprocess.run(
        [str(LINT_IMPORTS), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert run.returncode != 0
    assert "BROKEN" in run.stdout


def test_no_address_of_a_registry_and_no_path_of_a_machine() -> None:
    forbidden = re.compile(
        r"https?://[^\s\"']*/(?:simple|packages)/|--(?:extra-)?index-url|\"resolved\": *\"http|/(?:home|root|work)/[a-z]"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path != Path(__file__) and path.suffix not in {".png", ".ico", ".woff2"}
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_rooms_are_small_and_say_what_they_are_for() -> None:
    for path in tracked_files():
        inside = path.relative_to(ROOT)
        if path.suffix == ".py" and inside.parts[0] in {"services", "gateway", "deploy"}:
            text = path.read_text("utf-8")
            assert text.startswith(('"""', 'r"""', "#!")), f"{inside} has no docstring"
            assert text.count("\n") <= 400, f"{inside} is a room too large"
            assert inside.stem not in {"utils", "helpers", "manager", "base"}, inside
