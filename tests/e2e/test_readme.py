"""What the README tells people to type, typed."""

import json
import re
import subprocess
import sys
from pathlib import Path

from websockets.sync.client import connect

from tests.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def block(language: str, holding: str) -> str:
    """The one fenced block of that language that holds a text."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in text)
    return found


def test_a_separate_process_pushes(stack: Stack, tmp_path: Path) -> None:
    """To all, heard on two replicas, and to one sid, heard there alone."""
    script = tmp_path / "billing.py"
    script.write_text(block("python", "Push.open"), "utf-8")
    addresses = [stack.addresses[name].replace("http", "ws", 1) + "/ws" for name in ("socket-1", "socket-2")]
    with connect(addresses[0]) as one, connect(addresses[1]) as other:
        sid = json.loads(one.recv(5))["sid"]
        other.recv(5)
        run = subprocess.run(
            [sys.executable, str(script), stack.addresses["redis-server"], sid],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert "sent" in run.stdout
        assert [json.loads(one.recv(5))["type"] for _ in range(2)] == ["invoice.paid", "invoice.yours"]
        assert json.loads(other.recv(5))["type"] == "invoice.paid"


def test_the_commands_and_paths_named_are_there() -> None:
    verbs = set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert verbs
    assert all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb in verbs)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
