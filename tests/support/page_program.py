"""Programs in Node beside the modules of the web page: what of the page needs no browser."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from gateway.static_files import PAGE_DIR
from tests.support.programs import require_program


def run_page_program(folder: Path, program: str, given: object = None) -> Any:
    """Run a program beside the modules of the page, which finds `given` in given.json, and return what it prints as JSON."""
    node = require_program("node", "nodejs")
    page = folder / "page"
    shutil.copytree(PAGE_DIR, page)
    (page / "package.json").write_text('{"type": "module"}', "utf-8")
    (page / "program.js").write_text(program, "utf-8")
    (page / "given.json").write_text(json.dumps(given), "utf-8")
    done = subprocess.run([node, "program.js"], cwd=page, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
