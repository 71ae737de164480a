"""The command `gridcast` against the whole stack, as users type it: exit codes, JSON lines, interruption, secrets."""

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import free_ports
from gridcast import Client
from gridcast._flows.effects import HttpRequest, Send
from gridcast.cli.app import COMMANDS
from gridcast.cli.output import printable
from tests.support.client_package import run_gridcast
from tests.support.sizes import MIB
from tests.support.stack import Stack
from tests.support.waiting import eventually

LARGE = 17 * MIB + 5


class Terminal:
    """A shell of one user: a folder, an environment, and commands."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")},
            "GRIDCAST_URL": url,
            "XDG_STATE_HOME": str(folder / ".state"),
            "XDG_CONFIG_HOME": str(folder / ".config"),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }
        self.remote = f"cli/{os.urandom(6).hex()}"

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "gridcast.cli", *arguments], cwd=self.folder, env=self.env, **options
        )

    def run(self, *arguments: str, code: int = 0, stdin: str = "", **env: str) -> str:
        """Run a command, compare its exit code, and return its standard output; the standard error is `notes`."""
        done = run_gridcast(*arguments, cwd=self.folder, env={**self.env, **env}, text=stdin)
        self.notes = done.stderr
        assert done.returncode == code, (arguments, done.stdout, self.notes)
        assert "Traceback" not in self.notes
        return done.stdout

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def user(tmp_path: Path, stack: Stack) -> Terminal:
    return Terminal(tmp_path, stack.url)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_goes_there_and_back(user: Terminal) -> None:
    files = {"a.txt": b"a", "sub/b c%.bin": os.urandom(300_000), "sub/deep/ü.txt": b"", "large.bin": os.urandom(LARGE)}
    for name, content in files.items():
        user.write(f"photos/{name}", content)
    printed = user.run("upload", "photos", "--to", f"{user.remote}/")
    assert sorted(printed.splitlines()) == sorted(f"uploaded {user.remote}/photos/{name}" for name in files)
    again = json_lines(user.run("upload", "photos", "--to", f"{user.remote}/", "--json"))
    assert {one["status"] for one in again} == {"unchanged"}
    assert user.run("ls", user.remote).splitlines() == [f"{user.remote}/photos/"]
    listed = json_lines(user.run("ls", "-r", user.remote, "--json"))
    assert {one["path"]: one["sha256"] for one in listed} == {
        f"{user.remote}/photos/{name}": hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    user.run("download", f"{user.remote}/photos/", "-o", "back")
    for name, content in files.items():
        assert (user.folder / "back/photos" / name).read_bytes() == content
    assert not list((user.folder / "back").rglob(".gridcast-*"))
    assert user.run("download", f"{user.remote}/photos/a.txt", "-o", "back/photos/a.txt").startswith("unchanged")
    user.run("download", f"{user.remote}/photos", "-o", "back", code=4)
    assert f"written {user.remote}/photos/" in user.notes, "a folder needs its slash, and the error says so"
    user.run("rm", "-r", f"{user.remote}/photos", code=4)
    assert f"written {user.remote}/photos/" in user.notes
    user.run("rm", f"{user.remote}/photos/", code=2)
    user.run("rm", "-r", f"{user.remote}/photos/")
    user.run("ls", user.remote, code=4)


def test_globs_stdin_cat_and_info(user: Terminal) -> None:
    for name in ("1.txt", "2.txt", "3.bin"):
        user.write(name, name.encode())
    user.run("upload", "*.txt", "--to", f"{user.remote}/", "--meta", "title=Ü x", "--type", "text/markdown")
    user.run("upload", "-", "--to", f"{user.remote}/in.txt", stdin="from stdin")
    assert user.run("cat", f"{user.remote}/1.txt", f"{user.remote}/in.txt") == "1.txtfrom stdin"
    assert user.run("cat", "--offset", "5", "--length", "3", f"{user.remote}/in.txt") == "std"
    (found,) = json_lines(user.run("info", f"{user.remote}/1.txt", "--json"))
    assert (found["metadata"], found["content_type"], found["length"]) == ({"title": "Ü x"}, "text/markdown", 5)
    assert user.run("ls", f"{user.remote}/[1-9].txt").splitlines() == [f"{user.remote}/1.txt", f"{user.remote}/2.txt"]
    assert "title" in user.run("info", f"{user.remote}/1.txt")


def test_copies_and_syncs(user: Terminal, stack: Stack) -> None:
    user.write("a/1", b"one")
    user.write("a/2", os.urandom(LARGE))
    user.run("upload", "a/1", "a/2", "--to", f"{user.remote}/")
    user.run("cp", f"{user.remote}/1", f"{user.remote}/copy/1")
    config = user.folder / ".config/gridcast/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profiles.other]\nurl = "{stack.url}"\n', "utf-8")
    user.run("cp", f"{stack.url}/files/{user.remote}/2", f"other:{user.remote}/copy/")
    assert user.run("cp", f"{user.remote}/2", f"{user.remote}/copy/").startswith("unchanged")
    user.write("a/1", b"changed")
    user.write("a/3", b"three")
    assert "would transfer 3" in user.run("sync", "-n", "a", user.remote)
    user.run("sync", "a", user.remote, "--delete")
    assert user.run("cat", f"{user.remote}/1") == "changed"
    user.run("ls", f"{user.remote}/copy/", code=4)
    (user.folder / "a/2").unlink()
    user.write("a/4", b"four")
    user.run("sync", "--down", "--delete", user.remote, "a")
    assert sorted(path.name for path in (user.folder / "a").iterdir()) == ["1", "2", "3"]


def test_exit_codes(user: Terminal) -> None:
    user.write("a", b"a")
    user.write("b", b"b")
    away = f"http://127.0.0.1:{free_ports(1)[0]}"
    user.run("upload", "a", "--to", f"{user.remote}/x")
    user.run("upload", "b", "--to", f"{user.remote}/x", code=5)
    assert "Not Unique" in user.notes
    user.run("upload", "b", "--to", f"{user.remote}/x", "--replace")
    user.run("upload", "a", "none", code=4)
    user.run("upload", "a", "b", "--to", f"{user.remote}/name", code=2)
    for command in ("download", "info", "cat"):
        user.run(command, f"{user.remote}/none", code=4)
        assert f"{user.remote}/none: file not found" in user.notes
    user.run("rm", f"{user.remote}/none", f"{user.remote}/x", code=6)
    user.run("info", "a//b", code=1)
    user.run("nonsense", code=2)
    user.run("push", "t", code=2)
    user.run("push", "t", "{", "--all", code=2)
    user.run("ls", "--url", away, code=7)
    assert "gridcast doctor" in user.notes
    user.run("listen", "--url", away, code=7)
    user.run("doctor", "--url", away, code=7)
    user.run("ls", "--profile", "none", code=1)
    user.run("ls", "--url", "http://u:secret@localhost", code=1)
    assert "secret" not in user.notes
    # Of several, some: the failures stand at the end once more.
    user.run("upload", "a", "--to", f"{user.remote}/f/")
    user.write("f/a", b"other")
    user.write("f/c", b"c")
    user.run("upload", "f", "--to", f"{user.remote}/", code=6)
    assert user.notes.splitlines()[-2:][0] == "1 of 2 failed:"


def test_events(user: Terminal) -> None:
    listener = user.start("listen", "news", "--json", "--count", "1", "--ack", "--type", "news.x", stdout=-1, stderr=-1)
    assert listener.stderr is not None
    sid = listener.stderr.readline().decode().split()[1]
    printed = user.run("push", "news.x", '{"a": [1]}', "--sid", sid, "--wait", "10", "--json")
    assert json.loads(printed)["status"] == "delivered"
    out, _ = listener.communicate(timeout=20)
    assert listener.returncode == 0
    assert json.loads(out)["data"] == {"a": [1]}
    user.run("push", "news.x", "-", "--topic", "news", stdin='"text"')
    user.run("push", "news.x", "--sid", "A" * 52, code=4)
    user.run("push", "file.x", "--all", code=1)


def test_the_doctor_finds_nothing_here(user: Terminal) -> None:
    found = {one["check"]: one["result"] for one in json_lines(user.run("doctor", "--json"))}
    assert found == dict.fromkeys(("version", "clock", "ready", "websocket", "ranges", "buffering"), "ok")
    user.run("doctor", "--origin", "https://other.example", code=1)
    assert "GRIDCAST_ALLOWED_ORIGINS" in user.run("doctor", "--origin", "https://other.example", "--read-only", code=1)
    assert ".gridcast-doctor" not in user.run("ls")


def test_ctrl_c_ends_within_two_seconds_and_the_same_command_goes_on(user: Terminal, stack: Stack) -> None:
    signal_after_bytes = 4 * MIB
    content = os.urandom(LARGE * 4)
    user.write("big.bin", content)
    uploading = user.start("upload", "big.bin", "--to", f"{user.remote}/", stderr=subprocess.PIPE)
    states = user.folder / ".state/gridcast/uploads"
    eventually(lambda: list(states.glob("*.json")), 20, "the upload has begun")
    address = json.loads(next(states.glob("*.json")).read_text("utf-8"))["address"]

    with Client(stack.url) as client:

        def offset() -> int:
            request = HttpRequest("HEAD", address, {"tus-resumable": "1.0.0"})

            def flow() -> Any:
                return (yield Send(request))

            return int(client._shell.run(flow()).headers["upload-offset"])

        eventually(lambda: offset() >= signal_after_bytes, 20, "some bytes are durable")
        interrupted_at = time.monotonic()
        uploading.send_signal(signal.SIGINT)
        _, notes = uploading.communicate(timeout=10)
        assert time.monotonic() - interrupted_at < 2
        assert uploading.returncode == 130
        assert b"run again: gridcast upload big.bin" in notes
        durable = offset()
    assert signal_after_bytes <= durable < len(content)
    (stored,) = json_lines(user.run("upload", "big.bin", "--to", f"{user.remote}/", "--json"))
    assert stored["sha256"] == hashlib.sha256(content).hexdigest()
    assert list(states.iterdir()) == []


def test_a_hint_is_given_once(user: Terminal) -> None:
    user.write("many/1", b"1")
    user.write("many/2", b"2")
    (port,) = free_ports(1)
    user.run("upload", "many", "--url", f"http://127.0.0.1:{port}", code=7)
    assert user.notes.count("hint: ") == 1


def test_a_token_is_sent_and_never_shown(user: Terminal) -> None:
    """An open server ignores it; test_client_tokens.py has the closed one."""
    secret = "s3cret-token"
    user.write("token", f"{secret}\n".encode())
    shown = user.run("ls", "--json", GRIDCAST_TOKEN=secret) + user.notes
    shown += user.run("info", "none/none", code=4, GRIDCAST_TOKEN_FILE="token") + user.notes
    user.run("ls", code=1, GRIDCAST_TOKEN="not a token")
    shown += user.notes
    user.run("ls", code=1, GRIDCAST_TOKEN_FILE="absent")
    assert secret not in shown
    assert "not a token" not in shown


def test_bars_are_drawn_on_a_terminal_alone(user: Terminal) -> None:
    user.write("a.bin", os.urandom(LARGE))
    user.run("upload", "a.bin", "--to", f"{user.remote}/plain")
    assert "\x1b" not in user.notes
    main, side = pty.openpty()
    process = user.start("upload", "a.bin", "--to", f"{user.remote}/drawn", stdin=side, stdout=side, stderr=side)
    os.close(side)
    drawn = b""
    while select.select([main], [], [], 20)[0]:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        drawn += data
    os.close(main)
    assert process.wait(20) == 0
    assert b"MB/s" in drawn or b"MiB" in drawn
    assert b"uploaded" in drawn


def test_names_cannot_move_the_cursor() -> None:
    """The server refuses control characters, and what it sends is shown without them in any case."""
    assert "\x1b" not in printable("a\x1b[2J")


def test_completion(user: Terminal) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_GRIDCAST_COMPLETE" in user.run("completion", shell)
    user.run("completion", code=2, SHELL="/bin/csh")
    found = user.run("--help")
    assert all(re.search(rf"^  {name} ", found, re.MULTILINE) for name in COMMANDS)


def test_every_command_has_help_that_names_its_options(user: Terminal) -> None:
    for name in COMMANDS:
        assert "Usage: gridcast" in user.run(name, "--help")
    assert user.run("--version").startswith("gridcast ")
