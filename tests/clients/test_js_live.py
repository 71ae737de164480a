"""The live module of the JavaScript client on Node, against a scripted server, by node --test.

Node and its packages come from the machine and from npm; where they are not available, this test is skipped and says so.
"""

import shutil
import subprocess
from pathlib import Path

from tests.support.js_client import install_client
from tests.support.npm import NpmPackages

SCRIPTED = Path(__file__).parent / "js" / "live.test.mjs"


def test_live_against_a_scripted_server(npm: NpmPackages, tmp_path: Path) -> None:
    """Buffer, resuming after cuts, back-pressure, refusals, states."""
    programs = install_client(npm, tmp_path, ["rxjs", "ws"], SCRIPTED)
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, "--test", "--test-timeout=60000", SCRIPTED.name],
        cwd=programs,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "# pass 0" not in done.stdout
