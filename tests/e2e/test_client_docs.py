"""The blocks of docs/cli.md, docs/python.md and the README, run as they stand against the stack, with the wheel installed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT
from gridcast import Client
from tests.support.client_package import ClientEnvironment
from tests.support.stack import Stack

RUN = re.compile(r"<!-- run by tests/e2e/test_client_docs.py -->\n```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(language, text, id=f"{page.name} {number}")
    for page in (PROJECT_ROOT / "docs/cli.md", PROJECT_ROOT / "docs/python.md", PROJECT_ROOT / "README.md")
    for number, (language, text) in enumerate(RUN.findall(page.read_text("utf-8")))
]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 9


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_the_block_runs(
    language: str, text: str, stack: Stack, command_line_environment: ClientEnvironment, tmp_path: Path
) -> None:
    """Only the address differs, and the installation is done already. What it leaves is removed: the stack is shared with
    other tests.
    """
    with Client(stack.url) as client:
        before = {info.path for info in client.files()}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_bytes(b"one")
    (tmp_path / "v.webm").write_bytes(os.urandom(1000))
    text = text.replace("http://127.0.0.1:8000", stack.url)
    bin_folder = command_line_environment.python.parent
    if language == "sh":
        text = "\n".join(line for line in text.splitlines() if not line.startswith("pip install"))
        command = ["sh", "-euc", f"{text}\n"]
    else:
        (tmp_path / "program.py").write_text(text, "utf-8")
        command = [str(command_line_environment.python), "-W", "error", "program.py"]
    env = {"PATH": f"{bin_folder}{os.pathsep}{os.defpath}", "GRIDCAST_URL": stack.url, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with Client(stack.url) as client:
        for info in [info for info in client.files() if info.path not in before]:
            client.remove(info.path)
