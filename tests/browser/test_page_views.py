"""Every view of the web page with 0, 3 and 300 files, at 360, 800 and 1280 pixels, in Chromium: nothing is clipped or covered.

`node views.mjs URL CHROMIUM FOLDER light,dark PICTURES` photographs the same views, to be looked at. Where Node, npm or the browser
is not available, this test is skipped and says so.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.test_page import make_files
from tests.support.npm import NpmPackages
from tests.support.programs import require_program
from tests.support.scenarios import DRIVER
from tests.support.stack import Stack

PROGRAM = Path(__file__).parent / "views.mjs"
TIMEOUT_SECONDS = 280


@pytest.mark.timeout(TIMEOUT_SECONDS + 20)
def test_every_view_fits_every_width(npm: NpmPackages, stack: Stack, tmp_path: Path) -> None:
    """In one theme: they differ in colours, which axe judges."""
    chromium = require_program("chromium", "chromium")
    npm.require(tmp_path, ["playwright-core"], PROGRAM, DRIVER)
    make_files(tmp_path)
    command = [shutil.which("node") or "node", PROGRAM.name, stack.url, chromium, str(tmp_path), "light"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["views"] >= 75
    assert seen["found"] == []
