"""Uploads of the JavaScript client in Chromium, over XMLHttpRequest, on the page of the gateway: pause, a reload, offline in
mid-upload, two windows, the page's own queue.

Playwright drives Debian's Chromium. Where Node, npm or the browser is not available, these tests are skipped and say so.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.npm import NpmPackages
from tests.support.programs import require_program
from tests.support.scenarios import DRIVER
from tests.support.sizes import MIB
from tests.support.stack import Stack

PROGRAM = Path(__file__).parent / "js" / "browser.mjs"
SIZE = 32 * MIB + 77
FOLDERS = ("reload", "offline", "windows", "form")


@pytest.fixture(scope="module")
def seen(npm: NpmPackages, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program has seen in one browser, and the digest of its file."""
    chromium = require_program("chromium", "chromium")
    folder = tmp_path_factory.mktemp("browser")
    npm.require(folder, ["playwright-core"], PROGRAM, DRIVER)
    file = folder / f"{os.urandom(4).hex()}.webm"
    file.write_bytes(os.urandom(SIZE))
    command = [shutil.which("node") or "node", PROGRAM.name, stack.url, chromium, str(file)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_every_upload_is_stored_as_it_was_sent(stack: Stack, seen: dict[str, Any]) -> None:
    for folder in FOLDERS:
        info = httpx.get(f"{stack.url}/file/info", params={"folder": folder, "filename": seen["file"]}).json()
        assert info["sha256"] == seen["sha256"], folder
    assert seen["errors"] == []


def test_progress_is_that_of_the_network(seen: dict[str, Any]) -> None:
    """Many steps in one request, and a rate near the one that the browser was limited to."""
    assert seen["progress"] >= 4
    assert 6 * MIB <= seen["paused"]["sent"] < SIZE
    assert [snapshot["stored"] for snapshot in seen["reloaded"]][-1] == SIZE
    rates = [snapshot["rate"] for snapshot in seen["offline"] if snapshot["rate"]]
    assert rates


def test_upload_goes_on_after_a_reload(seen: dict[str, Any]) -> None:
    """The file is chosen again; what the server has is not sent again."""
    (unfinished,) = seen["unfinished"]
    assert (unfinished["filename"], unfinished["folder"], unfinished["size"]) == (seen["file"], "reload", SIZE)
    stored = [snapshot["stored"] for snapshot in seen["reloaded"] if snapshot["stored"]]
    assert stored[0] >= 4 * MIB, "most of the 10 MiB that were sent before"
    assert stored[-1] == SIZE


def test_upload_waits_while_the_browser_is_offline(seen: dict[str, Any]) -> None:
    assert seen["offlineError"] == "the connection was lost"
    states = [snapshot["state"] for snapshot in seen["offline"]]
    assert states.index("retrying") < states.index("stored")
    stored = [snapshot["stored"] for snapshot in seen["offline"]]
    assert stored == sorted(stored)


def test_second_window_does_not_fight_with_the_first(seen: dict[str, Any]) -> None:
    assert seen["otherError"] == "another window is uploading this file"
