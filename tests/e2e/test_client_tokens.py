"""Clients and commands against a closed stack: where the token comes from, its renewal, and that nothing shows it."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridcast import Client, ReceivedEvent, token_from_environment
from gridcast.errors import AuthenticationRequired, PermissionDenied
from tests.support.client_package import run_gridcast
from tests.support.client_shells import Shell, open_shell
from tests.support.sizes import MIB
from tests.support.stack import Stack, run_forked_stack
from tests.support.tokens import AUTH_ENV, SECRET, token
from tests.support.waiting import eventually

RIGHTS = "read:demo/* write:demo/* delete:demo/* listen push"
EXPIRING_IN_SECONDS = 61.5
"""A socket is warned a minute before the end of its token."""


@pytest.fixture(scope="module")
def closed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_forked_stack(tmp_path_factory.mktemp("closed") / "data", env=AUTH_ENV) as stack:
        yield stack
    stack.delete_data()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TokenSource:
    """A callback that gives tokens in their order, the last one for ever, and counts how often it was asked."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self._tokens[min(self.asked, len(self._tokens)) - 1]


def name() -> str:
    return f"demo/{os.urandom(6).hex()}"


def run_command(stack: Stack, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")}
    return run_gridcast(*arguments, env={**inherited, "GRIDCAST_URL": stack.url, **env})


def store_and_read(shell: Shell, path: str) -> None:
    shell.call("upload", b"content", path)
    assert shell.read(path, [(0, 3)]) == [b"con"]
    shell.call("remove", path)


def test_a_token_comes_from_a_text_a_file_a_callback_or_the_environment(
    kind: str, closed_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token("alice", RIGHTS)
    file = tmp_path / "token"
    file.write_text(f"{text}\n", "ascii")
    monkeypatch.delenv("GRIDCAST_TOKEN_FILE", raising=False)
    monkeypatch.setenv("GRIDCAST_TOKEN", text)
    from_variable = token_from_environment()
    monkeypatch.delenv("GRIDCAST_TOKEN")
    monkeypatch.setenv("GRIDCAST_TOKEN_FILE", str(file))
    from_file = token_from_environment()
    assert (from_variable, from_file) == (text, file)
    sources: list[Any] = [text, file, lambda: text, from_variable, from_file]
    for source in sources:
        with open_shell(kind, closed_stack.url, token=source) as shell:
            store_and_read(shell, name())
    monkeypatch.delenv("GRIDCAST_TOKEN_FILE")
    assert token_from_environment() is None
    with open_shell(kind, closed_stack.url) as shell, pytest.raises(AuthenticationRequired):
        shell.call("info", "demo/none")


def test_a_refused_token_is_asked_for_once_again(kind: str, closed_stack: Stack) -> None:
    """Over every way a body is sent: one PUT, tus, one stream."""
    old, good = token("alice", RIGHTS, secret=SECRET[::-1]), token("alice", RIGHTS)
    content = bytes(17 * MIB)
    for arguments in ((b"small", False), (content, False), (content, True)):
        source = TokenSource(old, good)
        with open_shell(kind, closed_stack.url, token=source) as shell:
            body, replace = arguments
            assert shell.call("upload", body, name(), replace=replace).length == len(body)
        assert source.asked == 2
    source = TokenSource(old)
    with open_shell(kind, closed_stack.url, token=source) as shell:
        with pytest.raises(AuthenticationRequired):
            shell.call("info", "demo/none")
        assert source.asked == 2
        with pytest.raises(AuthenticationRequired):
            shell.call("upload", b"x", name())


def test_a_renewed_token_file_is_read_again(kind: str, closed_stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token("alice", RIGHTS, secret=SECRET[::-1]), "ascii")
    with open_shell(kind, closed_stack.url, token=file) as shell:
        with pytest.raises(AuthenticationRequired):
            shell.call("upload", b"x", name())
        file.write_text(token("alice", RIGHTS), "ascii")
        store_and_read(shell, name())


def test_rights_are_those_of_the_token(kind: str, closed_stack: Stack) -> None:
    with open_shell(kind, closed_stack.url, token=token("alice", "read:demo/*")) as shell:
        with pytest.raises(PermissionDenied):
            shell.call("upload", b"x", name())
        with pytest.raises(PermissionDenied):
            shell.call("broadcast", "news.said", 1)


def test_a_listener_renews_the_token_of_its_connection(closed_stack: Stack, kind: str) -> None:
    """The first token has a minute left: the server warns, the callback is asked, and the same connection goes on."""
    first = token("alice", RIGHTS, exp=int(time.time() + EXPIRING_IN_SECONDS))
    source = TokenSource(first, token("alice", RIGHTS))
    with open_shell(kind, closed_stack.url, token=source) as shell, shell.listen() as events:
        sid = events.sid
        with Client(closed_stack.url, token("alice", RIGHTS)) as sender:
            seen = 0
            deadline = time.monotonic() + 20
            while source.asked < 2:
                assert time.monotonic() < deadline, "no token was asked for"
                sender.send(sid, "clock.tick", seen)
                item = events.next()
                assert isinstance(item, ReceivedEvent)
                assert (item.type, item.data) == ("clock.tick", seen)
                seen += 1
            sender.send(sid, "clock.tick", "after")
        last = events.next()
        assert isinstance(last, ReceivedEvent)
        assert (last.data, events.sid) == ("after", sid)


def test_a_listener_with_a_fixed_token_shows_the_warning(closed_stack: Stack, kind: str) -> None:
    first = token("alice", RIGHTS, exp=int(time.time() + EXPIRING_IN_SECONDS))
    with open_shell(kind, closed_stack.url, token=first) as shell, shell.listen() as events:
        item = events.next()
        assert isinstance(item, ReceivedEvent)
        assert item.type == "socket.expiring"


def test_no_log_and_no_representation_has_the_token(
    kind: str, closed_stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the application logs everything, as the WebSocket library does with the fields of its handshake."""
    caplog.set_level(logging.DEBUG)
    secret = token("alice", RIGHTS)
    with open_shell(kind, closed_stack.url, token=secret) as shell:
        store_and_read(shell, name())
        with shell.listen() as events:
            assert secret not in repr(vars(events))
        assert secret not in repr(vars(shell))
    assert any(record.name.startswith("http") for record in caplog.records), "nothing was logged at all"
    assert secret not in caplog.text
    wrong = secret[:-4] + "AAAA"
    with Client(closed_stack.url, wrong) as client, pytest.raises(AuthenticationRequired) as caught:
        client.info("demo/none")
    assert wrong not in repr(caught.value) + str(caught.value)


def test_commands_take_the_token_from_option_variable_and_file(closed_stack: Stack, tmp_path: Path) -> None:
    text, path = token("alice", RIGHTS), name()
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(text, "ascii")
    bad.write_text(token("alice", "read:other"), "ascii")
    (tmp_path / "a.txt").write_bytes(b"content")
    done = run_command(closed_stack, "upload", str(tmp_path / "a.txt"), "--to", path, GRIDCAST_TOKEN=text)
    assert done.returncode == 0, done.stderr
    assert run_command(closed_stack, "cat", path, GRIDCAST_TOKEN_FILE=str(good)).stdout == "content"
    done = run_command(closed_stack, "cat", path, "--token-file", str(good), GRIDCAST_TOKEN_FILE=str(bad))
    assert done.stdout == "content", "the option counts before the variable"
    shown = done.stderr
    for arguments, env, code in (
        ([], {}, 3),
        ([], {"GRIDCAST_TOKEN": f"{text}x"}, 3),
        ([], {"GRIDCAST_TOKEN_FILE": str(bad)}, 3),
        (["--token-file", str(tmp_path / "absent")], {}, 1),
    ):
        done = run_command(closed_stack, "cat", path, *arguments, GRIDCAST_DEBUG="", **env)
        assert done.returncode == code, done.stderr
        shown += done.stderr + done.stdout
    assert text not in shown
    assert "--token-file" in shown, "the hint names what to do"


def test_a_process_list_does_not_show_the_token(closed_stack: Stack, tmp_path: Path) -> None:
    text = token("alice", RIGHTS)
    (tmp_path / "token").write_text(text, "ascii")
    command = [sys.executable, "-m", "gridcast.cli", "listen", "--token-file", str(tmp_path / "token")]
    env = {**os.environ, "GRIDCAST_URL": closed_stack.url}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"sid "), "it is connected"
            assert text.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.terminate()
    help_texts = run_command(closed_stack, "upload", "--help").stdout
    assert "--token " not in help_texts, "no option takes a token itself"


def test_a_minted_token_opens_the_closed_stack(closed_stack: Stack, tmp_path: Path) -> None:
    minted = run_command(closed_stack, "token", "alice", RIGHTS, GRIDCAST_AUTH_SECRET=f"k1 {SECRET}")
    assert minted.returncode == 0, minted.stderr
    (tmp_path / "secret").write_text(f"k1 {SECRET} 2090-01-01T00:00:00Z\nold {SECRET[::-1]}\n", "ascii")
    others = run_command(closed_stack, "token", "bob", "read", "--secret-file", str(tmp_path / "secret"))
    (tmp_path / "a.txt").write_bytes(b"content")
    (text, other), path = (done.stdout.strip() for done in (minted, others)), name()
    done = run_command(closed_stack, "upload", str(tmp_path / "a.txt"), "--to", path, GRIDCAST_TOKEN=text)
    assert done.returncode == 0, done.stderr
    assert run_command(closed_stack, "cat", path, GRIDCAST_TOKEN=other).stdout == "content"
    done = run_command(closed_stack, "ls", GRIDCAST_TOKEN=text)
    assert (done.returncode, done.stdout) == (0, "demo/\n"), (
        "folders that it may read, and no refusal of the topmost one"
    )
    assert run_command(closed_stack, "ls", "other/", GRIDCAST_TOKEN=text).returncode == 3
    refused = run_command(closed_stack, "token", "alice", "fly", GRIDCAST_AUTH_SECRET=SECRET)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'fly' grants nothing" in refused.stderr
    refused = run_command(closed_stack, "token", "alice", "read")
    assert refused.returncode == 1
    assert "GRIDCAST_AUTH_SECRET" in refused.stderr
    refused = run_command(closed_stack, "token", "alice", "read", GRIDCAST_AUTH_SECRET="too-short-to-be-one")
    assert refused.returncode == 1
    assert "too-short" not in refused.stderr


def test_doctor_passes_on_a_closed_stack(closed_stack: Stack) -> None:
    text = token("alice", "read write delete listen push")

    def is_well() -> bool:
        return run_command(closed_stack, "doctor", GRIDCAST_TOKEN=text).returncode == 0

    eventually(is_well, 20, "doctor finds nothing wrong")
    assert run_command(closed_stack, "doctor", "--read-only").returncode == 3
