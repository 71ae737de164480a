"""The web page and the API documentation in a real browser, before the whole stack."""

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.chromium import CHROMIUM_FLAGS
from tests.support.scripted_upstream import send_request
from tests.support.stack import Stack

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def render_page(stack: Stack, path: str, profile: Path) -> tuple[str, str]:
    """The DOM as the scripts have left it after a few seconds, and the messages of the browser."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *CHROMIUM_FLAGS, "--enable-logging=stderr", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=6000", "--dump-dom", f"{stack.url}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    console = "\n".join(re.findall(r'CONSOLE.*?"(.*?)", source', done.stderr))
    return done.stdout, console


def test_the_page_is_connected_and_no_script_fails(stack: Stack, tmp_path: Path) -> None:
    document, console = render_page(stack, "/", tmp_path)
    assert "connected as" in document
    assert not re.search("Content Security Policy|Uncaught|Error:", console), console


def test_the_documentation_shows_every_operation(stack: Stack, tmp_path: Path) -> None:
    document, console = render_page(stack, "/docs", tmp_path)
    assert not console, console
    joined = send_request(stack.port, "GET", "/openapi.json").json
    operations = sum(len(item) for item in joined["paths"].values())
    assert operations > 10
    assert document.count("Try it out</button>") == operations
    for path in joined["paths"]:
        assert path in document


def test_page_loads_nothing_from_other_origins(stack: Stack) -> None:
    for path in ("/", "/docs"):
        with urllib.request.urlopen(f"{stack.url}{path}") as answer:
            parts = re.findall(r'(?:src|href)="([^"]+)"', answer.read().decode())
        assert parts
        assert all(part.startswith(("/", "#", "data:,")) for part in parts)
