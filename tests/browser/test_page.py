"""The web page as people use it, in Chromium: real drops, offline in mid-upload, reload and resume, two windows, keyboard only,
every view judged by axe.

Playwright drives Debian's Chromium. Where Node, npm or the browser is not available, these tests are skipped and say so.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.npm import NpmPackages
from tests.support.programs import require_program
from tests.support.scenarios import ScenarioProgram
from tests.support.sizes import MIB
from tests.support.stack import Stack

PROGRAM = Path(__file__).parent / "scenarios.mjs"
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\n"
)
KEY_LIMIT_MILLISECONDS = 150 if "PYTEST_XDIST_WORKER" in os.environ else 50
FIRST_VIEW_LIMIT_MILLISECONDS = 3000 if "PYTEST_XDIST_WORKER" in os.environ else 1000
"""`make test-browser` runs alone; where four test processes share two cores the same view took 1.1 s instead of 0.6."""


def make_files(folder: Path) -> None:
    """Make what is uploaded: texts, a tree, large files, and media."""
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "one.txt").write_text("one", "utf-8")
    (folder / "tree" / "two.txt").write_text("two", "utf-8")
    (folder / "tree" / "deep" / "three.txt").write_text("three", "utf-8")
    (folder / "tree" / ".DS_Store").write_bytes(b"junk")
    for name in ("large.bin", "cancelled.bin", "progress.bin"):
        (folder / name).write_bytes(os.urandom(12 * MIB))
    (folder / "other" / "large.bin").write_bytes(b"another file of that name")
    (folder / "page.pdf").write_bytes(PDF)
    ffmpeg = [require_program("ffmpeg", "ffmpeg"), "-loglevel", "error", "-f", "lavfi", "-i"]
    codec = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "16", "-b:v", "200k"]
    clip = ["testsrc2=s=320x180:r=10", "-t", "8", *codec, str(folder / "clip.webm")]
    sound = ["sine=440", "-t", "3", "-c:a", "libmp3lame", str(folder / "sound.mp3")]
    picture = ["testsrc2=s=320x180", "-frames:v", "1", str(folder / "picture.png")]
    for options in (clip, sound, picture):
        subprocess.run([*ffmpeg, *options], timeout=60, check=True)


class Browser:
    """The files that are uploaded, and what scenarios have seen."""

    def __init__(self, npm: NpmPackages, stack: Stack, folder: Path) -> None:
        self._folder = folder
        self.program = ScenarioProgram(npm, folder, PROGRAM, ["playwright-core", "axe-core"], stack.url, str(folder))
        self.seen = self.program.seen
        make_files(folder)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file that was uploaded."""
        return hashlib.sha256((self._folder / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def browser(npm: NpmPackages, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(npm, stack, tmp_path_factory.mktemp("page"))
    with contextlib.closing(browser.program):
        yield browser


def test_dropped_files_and_folders_are_uploaded_where_they_were(browser: Browser) -> None:
    seen = browser.seen("drop")
    assert seen["overlay"], "while files are dragged over the page it says where they would go"
    assert seen["crumbs"] == ["All files", "dropped", "tree"]
    assert seen["length"] == len("three")
    assert seen["errors"] == []


def test_pasted_picture_gets_a_name_of_its_own(browser: Browser) -> None:
    seen = browser.seen("paste")
    assert seen["name"].startswith("Pasted 20")
    assert seen["name"].endswith(".png")
    assert seen["errors"] == []


def test_queue_shows_each_upload_and_obeys(browser: Browser) -> None:
    """Rate and time left, pause, resume, cancel; a taken name is a question and no error over a stored file."""
    seen = browser.seen("queue")
    assert " left" in seen["sending"]
    assert seen["paused"].startswith("Paused. The server has ")
    assert seen["cancelled"] == "Cancelled"
    assert seen["info"]["sha256"] == browser.digest("large.bin")
    assert seen["errors"] == []


def test_folders_are_made_chosen_and_filled(browser: Browser) -> None:
    """A new folder, a folder that is chosen as a whole, several files moved at once and moved back."""
    seen = browser.seen("folders")
    assert seen["empty"] == "This folder is empty"
    assert seen["crumbs"] == ["All files", "folders", "new one", "tree"]
    assert seen["moved"] == "2 files moved to folders/to."
    assert seen["there"] == [5, 5]
    assert seen["errors"] == []


def test_many_uploads_obey_together(browser: Browser) -> None:
    """Pause, resume and cancel all; one answer to several names that are taken; limits of the server said beforehand."""
    seen = browser.seen("together")
    assert seen["summary"].startswith("1 of 3 files")
    assert seen["title"] == "2 uploads paused"
    assert seen["asked"] == "2 names already there"
    assert seen["refused"] == "“three.txt” is too large: this server takes files of up to 3 B."
    assert seen["errors"] == []


def test_what_waits_is_renamed_in_the_queue(browser: Browser) -> None:
    """By keys alone; the row stays where it was; a taken name offers it, too."""
    seen = browser.seen("rename")
    waiting = ["second.txt", "taken.txt"]
    assert seen["marked"] == "first", "what tells the type stays"
    assert "no slash" in seen["fault"]
    assert seen["left"][3:] == ["first.txt", *waiting]
    assert seen["renamed"][3:] == ["renamed.txt", *waiting]
    assert seen["begun"] == 0
    assert seen["stored"] == "text of first.txt"
    assert seen["errors"] == []


def test_camera_makes_files_for_the_queue(browser: Browser) -> None:
    """A picture and a clip, seen before they are uploaded; a refused permission is said, and can be given later."""
    seen = browser.seen("camera")
    assert seen["denied"].startswith("This page was not allowed to use the camera. Allow it")
    assert seen["files"][0] == ["image/jpeg", True]
    assert seen["files"][1] in (["video/mp4", True], ["video/webm", True])
    assert seen["open"] == 0
    assert seen["errors"] == []


def test_no_camera_is_offered_where_none_is(browser: Browser) -> None:
    assert browser.seen("nocamera")["errors"] == []


def test_upload_goes_on_after_the_network_was_away(browser: Browser) -> None:
    seen = browser.seen("offline")
    assert seen["chip"].startswith(("Offline", "Connecting", "Connected"))
    assert seen["attempts"] == 2
    assert seen["info"]["sha256"] == browser.digest("large.bin")


def test_upload_goes_on_after_a_reload(browser: Browser) -> None:
    """The browser asks before the reload; the file is chosen again, another one is refused."""
    seen = browser.seen("reload")
    assert seen["asked"] == ["beforeunload"]
    assert "Was interrupted" in seen["offered"]
    assert seen["wrong"].startswith("This is not the same file")
    assert seen["info"]["sha256"] == browser.digest("large.bin")


def test_pushed_changes_move_neither_scroll_nor_focus(browser: Browser) -> None:
    seen = browser.seen("windows")
    assert seen["before"]["scroll"] > 0
    assert seen["before"] == seen["after"]
    assert max(seen["lists"]) <= 5
    assert seen["errors"] == []


def test_everything_can_be_done_with_the_keyboard(browser: Browser) -> None:
    seen = browser.seen("keyboard")
    assert (seen["first"], seen["second"]) == ("keyboard/key d.txt", "keyboard/key c.txt")
    assert seen["shown"] == "text of key c.txt"
    assert seen["back"] == "keyboard/key c.txt", "the focus returns to the row"
    assert (seen["selected"], seen["question"]) == ("2 selected", "Delete 2 files?")
    assert seen["left"] == ["key d.txt", "key a.txt"]
    assert seen["search"] == "#/files/keyboard?q=key+d.t"
    assert seen["errors"] == []


def test_search_is_in_all_folders_and_says_when_nothing_is_found(browser: Browser) -> None:
    seen = browser.seen("search")
    assert seen["where"].endswith("search")
    assert "Try fewer letters" in seen["empty"]
    assert seen["errors"] == []


def test_player_plays_shows_and_says_what_it_cannot(browser: Browser) -> None:
    seen = browser.seen("player")
    assert seen["toggled"] is True
    assert seen["speed"] == 1.25
    assert re.search(r"#/files/player\?play=player%2F1.webm&t=[3-7]$", seen["copied"])
    assert seen["pip"] is True
    assert seen["seen"][:3] == ["2.avi", "This browser cannot play this video", "2.avi"]
    assert seen["seen"][3:] == ["3.mp3", "4.png", "5.txt", "6.pdf"]
    assert seen["errors"] == []


def test_nothing_is_read_of_an_empty_file(browser: Browser) -> None:
    """No range of it can be satisfied: a player's request is answered with 416, which is an error in the console."""
    seen = browser.seen("empty")
    assert seen["said"] == ["This file is empty"] * 3
    assert seen["asked"] == []
    assert seen["errors"] == []


def test_changes_can_be_undone_and_files_moved(browser: Browser) -> None:
    """A video that was uploaded from the page has a poster, which its browser drew."""
    seen = browser.seen("changes")
    assert seen["deleted"] == ["m3.txt"]
    assert seen["taken"] == "A file of this name is already there."
    assert seen["sorted"] == ["m3.txt", "m2.txt", "renamed.txt"]
    assert seen["poster"] == "image/webp"
    assert seen["errors"] == []


def test_details_have_digest_address_and_curl(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    """The command is run as it is shown, in a shell."""
    seen = browser.seen("details")
    curl = next(code for code in seen["codes"] if code.startswith("curl"))
    assert {seen["sha256"], seen["etag"]} <= set(seen["codes"])
    assert f"{stack.url}/files/details/it's%20here.txt" in seen["codes"]
    subprocess.run(["sh", "-c", curl], cwd=tmp_path, timeout=30, check=True, capture_output=True)
    assert (tmp_path / "it's here.txt").read_text("utf-8") == "a text"
    assert seen["errors"] == []


def test_sockets_view_pushes_shows_and_closes(browser: Browser) -> None:
    """A double click pushes once; progress is one line; the feed stands still while it is paused."""
    seen = browser.seen("sockets")
    assert len(seen["sid"]) == 52
    assert "replica " in seen["replica"]
    assert seen["pushes"] == 1
    assert seen["receipt"] == "delivered"
    assert json.loads(seen["json"])["data"] == {"text": "Hello"}
    assert (seen["filtered"], seen["whilePaused"]) == (0, 2)
    assert seen["progress"] == 1
    assert seen["errors"] == []


def test_operations_view_shows_every_replica(browser: Browser, stack: Stack) -> None:
    seen = browser.seen("operations")
    assert [re.split("[^a-z]", text)[0] for text in seen["services"]] == [
        "gateway",
        "upload",
        "stream",
        "socket",
        "live",
    ]
    replicas = httpx.get(f"{stack.url}/status").json()["services"]
    assert seen["overall"] == f"All {sum(len(service['replicas']) for service in replicas)} replicas are ready"
    assert {"Requests", "Memory", "CPU time"} <= set(seen["figures"])
    assert seen["errors"] == []


def test_errors_are_in_peoples_words(browser: Browser) -> None:
    seen = browser.seen("errors")
    assert "The server is not ready at the moment" in seen["list"]
    assert "admin" in seen["operations"]


def test_token_is_shown_used_and_kept_only_on_request(browser: Browser) -> None:
    seen = browser.seen("token")
    assert seen["state"].startswith("Token of alice. It is valid for ")
    assert seen["stored"] == 0


def test_both_themes_fit_a_small_screen(browser: Browser) -> None:
    seen = browser.seen("themes")
    assert seen["light"] != seen["dark"] == seen["kept"]
    assert set(seen["widths"].values()) == {360}


def test_axe_finds_nothing(browser: Browser) -> None:
    seen = browser.seen("axe")
    assert seen["found"] == []
    assert seen["rules"] > 20, "it has looked"


def test_ten_thousand_files(browser: Browser) -> None:
    """First view within a second, keys below 50 ms, and a page that stays small while all of them are scrolled through."""
    seen = browser.seen("many")
    assert seen["first"] < FIRST_VIEW_LIMIT_MILLISECONDS
    assert len(seen["keys"]) == len("file 99")
    assert sorted(seen["keys"])[-2] < KEY_LIMIT_MILLISECONDS
    assert seen["bottom"] == "file 9999.txt"
    assert seen["most"] < 60
    assert seen["nodes"] < 2000
    assert seen["errors"] == []
