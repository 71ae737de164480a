"""The web page with a token, in Chromium, on a stack that is closed: signed links for media, posters, downloads and others.

Where Node, npm or the browser is not available, these tests are skipped and say so.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_page import PDF
from tests.support.databases import TEST_STORE
from tests.support.npm import NpmPackages
from tests.support.programs import require_program
from tests.support.scenarios import DRIVER
from tests.support.stack import run_forked_stack
from tests.support.tokens import AUTH_ENV, token

PROGRAM = Path(__file__).parent / "links.mjs"
LINK_LIFE_SECONDS = 4
"""The clip plays for longer."""
TIMEOUT_SECONDS = 110


def make_files(folder: Path) -> None:
    """Make a clip, a picture, a document, and sounds with a cover."""
    ffmpeg = [require_program("ffmpeg", "ffmpeg"), "-loglevel", "error"]
    picture = folder / "picture.png"
    clip = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=10", "-t", "9", "-c:v", "libvpx", "-b:v", "200k"]
    fast = ["-deadline", "realtime", "-cpu-used", "16"]
    subprocess.run([*ffmpeg, *clip, *fast, folder / "clip.webm"], timeout=60, check=True)
    subprocess.run(
        [*ffmpeg, "-f", "lavfi", "-i", "testsrc2=s=300x300", "-frames:v", "1", picture], timeout=60, check=True
    )
    sounds: list[str | Path] = [*ffmpeg, "-f", "lavfi", "-i", "sine=440:d=2", "-i", picture]
    for name, codec in (
        ("song.mp3", "libmp3lame"),
        ("other.mp3", "libmp3lame"),
        ("other.flac", "flac"),
        ("other.m4a", "aac"),
    ):
        maps = ["-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v", "attached_pic"]
        sounds += [*maps, "-c:a", codec, folder / name]
    subprocess.run(sounds, timeout=60, check=True)
    (folder / "sheet.pdf").write_bytes(PDF)


@pytest.fixture(scope="module")
def seen(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program has seen in one browser."""
    chromium = require_program("chromium", "chromium")
    folder = tmp_path_factory.mktemp("links")
    npm.require(folder, ["playwright-core"], PROGRAM, DRIVER)
    make_files(folder)
    env = {**AUTH_ENV, "GRIDCAST_LINK_LIFE": str(LINK_LIFE_SECONDS)}
    with run_forked_stack(tmp_path_factory.mktemp("closed") / "data", "--store", TEST_STORE, env=env) as stack:
        tokens = [token(scope="read write delete link listen"), token("bob", "read listen")]
        command = [shutil.which("node") or "node", PROGRAM.name, stack.url, chromium, str(folder), *tokens]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        stack.delete_data()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_posters_and_covers_are_made_at_upload_and_read_by_links(seen: Any) -> None:
    assert seen["posters"] == [["/file/poster", True]] * 2


def test_covers_of_other_files_are_shown_with_few_requests(seen: Any) -> None:
    """Seven files on the screen; the covers of sounds are read with the token itself."""
    assert 1 <= seen["linkRequests"] <= 4


def test_what_plays_longer_than_its_link_goes_on_without_a_jump(seen: Any) -> None:
    assert seen["played"] > LINK_LIFE_SECONDS
    assert seen["jumps"] == []
    assert seen["same"] is True
    assert seen["status"] == 206, "the address is valid after its first end"
    assert seen["prolonged"] >= 2
    assert seen["address"] == "/files/links/clip.webm"


def test_downloads_and_new_tabs_have_links(seen: Any) -> None:
    assert seen["download"] == "sheet.pdf"
    assert seen["tab"] == ["image/png", "/files/links/picture.png"]
    assert seen["errors"] == []


def test_a_shared_link_works_without_a_token_until_it_is_revoked(seen: Any) -> None:
    assert seen["offered"] == "Share “clip.webm”", "what was just stored can be shared from the queue"
    assert seen["copied"] is True
    assert seen["shared"] == 200
    assert seen["listed"] == ["picture.pngends in 60 min"]
    assert seen["revoked"] == 403


def test_others_send_one_file_by_a_link_without_a_token(seen: Any) -> None:
    """What was asked for is said, and checked before a byte is sent; the guest's page asks the server for nothing else."""
    assert "You were asked for “report.pdf”" in seen["asked"]
    assert "Up to 1.0 MiB · only PDF · the link ends in 24 h" in seen["asked"]
    assert (seen["tabs"], seen["wide"], seen["narrow"]) == (False, False, 360)
    assert seen["wrongType"] == "“picture.png” is of another type than was asked for."
    assert seen["sent"] == "Your file has arrived. You can close this page."
    assert set(seen["guestPaths"]) <= {"/file/tus", "/file/tus/ID"}
    assert seen["guestErrors"] == []
    assert seen["owner"] == "alice"
    assert seen["again"] == "This link was used already: it is for one upload. Ask for another one."
    assert seen["ended"] == "This link has ended or was revoked. Ask for another one."
    assert seen["broken"].startswith("This address is not complete")


def test_a_missing_right_is_named(seen: Any) -> None:
    assert seen["refused"].endswith("Your token lacks the right “link”. Ask for one that has it.")
    assert seen["unshared"] == "Your token lacks the right “link”. Ask for one that has it."
