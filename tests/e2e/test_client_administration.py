"""Links, revocations and webhooks from both clients and from the command line, against a closed stack."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gridcast import Client
from gridcast.errors import FileMissing, InvalidRequest, NameConflict, PermissionDenied
from gridcast.webhooks import verify
from tests.support.client_package import run_gridcast
from tests.support.client_shells import Shell, open_shell
from tests.support.stack import Stack, run_forked_stack
from tests.support.tokens import AUTH_ENV, token
from tests.support.waiting import eventually
from tests.support.webhook_receiver import Receiver, answering, run_threaded_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of Standard Webhooks
ALICE = "read:demo/* write:demo/* delete:demo/* link:demo/*"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with run_threaded_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def closed_stack(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    endpoint = {"id": "settings", "url": receiver.url, "secret": SECRET}
    env = {**AUTH_ENV, "GRIDCAST_WEBHOOKS": json.dumps([endpoint])}
    with run_forked_stack(tmp_path_factory.mktemp("closed") / "data", env=env) as stack:
        yield stack
    stack.delete_data()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def alice(kind: str, closed_stack: Stack) -> Iterator[Shell]:
    with open_shell(kind, closed_stack.url, token=token("alice", ALICE)) as shell:
        yield shell


@pytest.fixture
def admin(kind: str, closed_stack: Stack) -> Iterator[Shell]:
    with open_shell(kind, closed_stack.url, token=token("root", "admin")) as shell:
        yield shell


class Terminal:
    """Commands of one user."""

    def __init__(self, stack: Stack, scope: str) -> None:
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")},
            "GRIDCAST_URL": stack.url,
            "GRIDCAST_TOKEN": token("alice", scope),
        }
        self.notes = ""

    def run(self, *arguments: str, code: int = 0) -> str:
        done = run_gridcast(*arguments, env=self._env)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        self.notes = done.stderr
        return done.stdout

    def documents(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]


def new_path() -> str:
    return f"demo/{os.urandom(6).hex()}.txt"


def refused(url: str) -> bool:
    return httpx.get(url).status_code == 403


def test_a_link_reads_one_version_until_it_is_revoked(alice: Shell) -> None:
    path = new_path()
    alice.call("upload", b"one", path)
    link, following = alice.call("make_link", path, expires_in=600), alice.call("make_link", path, follow=True)
    assert (link.kind, link.path) == ("get", path)
    assert 590 < link.expires_at - time.time() < 601
    assert link.link not in repr(link)
    assert httpx.get(link.url).content == b"one"
    alice.call("upload", b"two", path, replace=True)
    eventually(lambda: refused(link.url), 5, "the link is for the first version")
    eventually(lambda: httpx.get(following.url).content == b"two", 5)
    longer = alice.call("prolong_link", following.id, following.url, expires_in=90_000)
    assert longer.expires_at - time.time() > 89_000
    alice.call("revoke_link", following.id)
    eventually(lambda: refused(following.url), 5)
    alice.call("remove", path)


def test_a_link_uploads_one_file(alice: Shell) -> None:
    path = new_path()
    link = alice.call("make_upload_link", path, max_size=10, media_types=["text/*"])
    assert (link.kind, link.path) == ("put", path)
    fields = {"tus-resumable": "1.0.0", "upload-length": "11"}
    assert httpx.post(link.url, headers=fields).status_code == 413
    names = {"filename": path.partition("/")[2], "folder": "demo", "filetype": "text/plain"}
    metadata = ",".join(f"{key} {_base64(value)}" for key, value in names.items())
    fields = {
        "tus-resumable": "1.0.0",
        "upload-length": "2",
        "upload-metadata": metadata,
        "content-type": "application/offset+octet-stream",
    }
    assert httpx.post(link.url, headers=fields, content=b"hi").status_code == 201
    eventually(lambda: alice.read(path, [(0, 2)]) == [b"hi"], 5)
    alice.call("remove", path)


def _base64(text: str) -> str:
    import base64  # noqa: PLC0415  # one place

    return base64.b64encode(text.encode()).decode()


def test_links_that_are_refused(alice: Shell) -> None:
    with pytest.raises(FileMissing):
        alice.call("make_link", new_path())
    with pytest.raises(PermissionDenied):
        alice.call("make_link", "other/a")
    for seconds in (0, float("nan")):
        with pytest.raises(InvalidRequest):
            alice.call("make_link", new_path(), expires_in=seconds)
    with pytest.raises(FileMissing):
        alice.call("revoke_link", "A" * 48)
    with pytest.raises(InvalidRequest):
        alice.call("revoke_link", "../x")


def test_an_open_server_needs_no_links(kind: str, stack: Stack) -> None:
    with open_shell(kind, stack.url) as shell, pytest.raises(NameConflict, match="authentication is off"):
        shell.call("make_link", "demo/a")


def test_revocations(kind: str, closed_stack: Stack, admin: Shell) -> None:
    subject = os.urandom(6).hex()
    with Client(closed_stack.url, token(subject, "read")) as mine:
        assert list(mine.files("nothing")) == []
        revocation = admin.call("revoke", subject=subject)
        assert (revocation.subject, revocation.token_id) == (subject, None)
        assert revocation.before <= time.time() < revocation.until
        eventually(lambda: _is_refused(mine), 5)
    with pytest.raises(InvalidRequest):
        admin.call("revoke")
    with open_shell(kind, closed_stack.url, token=token("alice", "read")) as other, pytest.raises(PermissionDenied):
        other.call("revoke", token_id="t1")


def _is_refused(client: Client) -> bool:
    from gridcast.errors import AuthenticationRequired  # noqa: PLC0415  # one place

    try:
        list(client.files("nothing"))
    except AuthenticationRequired:
        return True
    return False


def test_webhooks(admin: Shell, alice: Shell, receiver: Receiver) -> None:
    added = admin.call("add_webhook_endpoint", os.urandom(6).hex(), "https://app.example/x", events=["live.*"])
    assert added.secret.startswith("whsec_")
    assert added.secret not in repr(added)
    [found] = [one for one in admin.call("webhook_endpoints") if one.id == added.id]
    assert (found.url, found.events, found.source, found.secret) == (added.url, ("live.*",), "api", None)
    admin.call("activate_webhook_endpoint", added.id)
    admin.call("remove_webhook_endpoint", added.id)
    with pytest.raises(FileMissing):
        admin.call("remove_webhook_endpoint", added.id)
    with pytest.raises(PermissionDenied):
        alice.call("webhook_endpoints")
    path = new_path()
    receiver.requests.clear()
    alice.call("upload", b"one", path)
    eventually(lambda: receiver.requests, 10)
    [request] = receiver.requests
    event = verify(request.body, request.headers, SECRET)
    assert (event.type, event.data["filename"]) == ("file.created", path.partition("/")[2])
    eventually(lambda: _delivery(admin, event.id).state == "done", 10)
    delivery = _delivery(admin, event.id)
    assert (delivery.endpoint, delivery.type, delivery.status, delivery.failures) == (
        "settings",
        "file.created",
        200,
        0,
    )
    assert admin.call("replay_webhooks", id=delivery.id) == 1
    eventually(lambda: len(receiver.requests) == 2, 10)
    assert verify(receiver.requests[1].body, receiver.requests[1].headers, SECRET) == event
    with pytest.raises(FileMissing):
        admin.call("replay_webhooks", id="nothing")
    alice.call("remove", path)


def _delivery(admin: Shell, event_id: str) -> Any:
    [found] = [one for one in admin.call("webhook_deliveries", "settings", limit=200) if one.event_id == event_id]
    return found


def test_the_commands_for_links(closed_stack: Stack) -> None:
    terminal = Terminal(closed_stack, ALICE)
    path, moved = new_path(), new_path()
    with Client(closed_stack.url, token("alice", ALICE)) as client:
        client.upload(b"one", path)
    url = terminal.run("link", path, "--expires", "15m").strip()
    assert httpx.get(url).content == b"one"
    link_id = terminal.notes.split("--revoke ")[1].strip()
    [longer] = terminal.documents("link", "--prolong", link_id, url, "--expires", "2d")
    assert (longer["id"], longer["url"]) == (link_id, url)
    assert terminal.run("link", "--revoke", link_id) == f"revoked {link_id}\n"
    eventually(lambda: refused(url), 5)
    [upload] = terminal.documents("link", "--upload", "--max-size", "5", "--type", "text/*", new_path())
    assert upload["kind"] == "put"
    for usage in (["link"], ["link", path, "--max-size", "1"], ["link", path, "--expires", "soon"]):
        terminal.run(*usage, code=2)
    terminal.run("link", "other/x", code=3)
    terminal.run("link", new_path(), code=4)
    assert terminal.run("mv", path, moved) == f"{path} -> {moved}\n"
    terminal.run("rm", moved)
    assert terminal.run("restore", moved) == f"restored {moved}\n"
    assert terminal.run("cat", moved) == "one"
    terminal.run("mv", path, moved, code=4)
    terminal.run("rm", moved)


def test_the_commands_for_webhooks(closed_stack: Stack, receiver: Receiver) -> None:
    terminal = Terminal(closed_stack, "admin")
    name = os.urandom(6).hex()
    secret = terminal.run("hooks", "add", name, "https://app.example/in", "--event", "file.*", "--ordered").strip()
    assert secret.startswith("whsec_")
    [mine] = [one for one in terminal.documents("hooks", "ls") if one["id"] == name]
    assert (mine["ordered"], mine["events"], "secret" in mine) == (True, ["file.*"], False)
    assert secret not in terminal.run("hooks", "ls")
    terminal.run("hooks", "activate", name)
    terminal.run("hooks", "rm", name)
    terminal.run("hooks", "rm", name, code=4)
    receiver.respond = answering(410)
    path = new_path()
    with Client(closed_stack.url, token("root", "admin")) as client:
        client.upload(b"one", path)
    eventually(lambda: terminal.documents("hooks", "deliveries", "--endpoint", "settings", "--state", "dead"), 20)
    assert [one["ended"] for one in terminal.documents("hooks", "ls") if one["id"] == "settings"] == [True]
    receiver.respond = answering()
    terminal.run("hooks", "activate", "settings")
    [replayed] = terminal.documents("hooks", "replay", "--endpoint", "settings", "--state", "dead")
    assert replayed["replayed"] >= 1
    eventually(lambda: not terminal.documents("hooks", "deliveries", "--state", "dead"), 20)
    terminal.run("hooks", "replay", code=2)
    Terminal(closed_stack, ALICE).run("hooks", "ls", code=3)
    terminal.run("rm", path)
