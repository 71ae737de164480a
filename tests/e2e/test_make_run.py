"""`make run` in a clean copy of the tree. The environment is this one's, so that nothing is downloaded."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT
from tests.support.stack import STACK_VARIABLES
from tests.support.waiting import eventually

SOURCE_PATHS = ("Makefile", "pyproject.toml", "requirements", "services", "gateway", "deploy", "clients/python")


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    if shutil.which("make") is None or not (PROJECT_ROOT / ".venv/local.stamp").exists():
        pytest.skip("make, or an environment made by it, is not there")
    folder = tmp_path / "copy"
    folder.mkdir()
    for part in SOURCE_PATHS:
        if (PROJECT_ROOT / part).is_dir():
            shutil.copytree(PROJECT_ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(PROJECT_ROOT / part, folder / part)
    # Older than the environment, whenever they were checked out.
    for prerequisite in (*(folder / "requirements").iterdir(), folder / "clients/python/pyproject.toml"):
        os.utime(prerequisite, (0, 0))
    (folder / ".venv").symlink_to((PROJECT_ROOT / ".venv").resolve())
    return folder


def test_port_and_data(source_copy: Path, tmp_path: Path) -> None:
    """It listens on PORT, keeps its data in DATA, and Ctrl-C ends all of it."""
    (port,) = free_ports(1)
    data = tmp_path / "elsewhere"
    env = {
        name: value for name, value in os.environ.items() if name not in STACK_VARIABLES and not name.startswith("MAKE")
    }
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(
            ["make", "run", f"PORT={port}", f"DATA={data}"],
            cwd=source_copy,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://{HOST}:{port}"
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 60, "the stack is ready")
        httpx.put(f"{url}/file/stream?filename=a", content=b"12345").raise_for_status()
        assert httpx.get(f"{url}/file/stream?filename=a").content == b"12345"
        assert (data / "mongo").is_dir()
        assert not (source_copy / ".gridcast").exists()
    finally:
        os.killpg(run.pid, signal.SIGINT)
        run.wait(60)
        shutil.rmtree(data / "mongo", ignore_errors=True)
    text = (tmp_path / "said").read_text("utf-8")
    assert "install" not in text, "nothing was installed"
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" stopped")] == [
        "gateway",
        "socket",
        "stream",
        "upload",
        "redis-server",
        "mongod",
    ]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
