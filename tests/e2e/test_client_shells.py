"""Client and AsyncClient against the whole stack: one suite for both."""

import hashlib
import inspect
import io
import os
import subprocess
import sys
import threading
import typing
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import gridcast
import gridcast.errors
import gridcast.publish
import gridcast.values
from deploy.local.ports import free_ports
from gridcast import AsyncClient, Client, EventGap, FileInfo, PushReceipt, ReceivedEvent, TransferProgress
from gridcast.errors import (
    FileChanged,
    FileMissing,
    InvalidRequest,
    NameConflict,
    RequestError,
    ServerUnavailable,
    SourceChanged,
)
from tests.support.client_shells import OpenListener, Shell, open_shell
from tests.support.sizes import MIB
from tests.support.stack import Stack

LARGE = 17 * MIB + 5
KINDS = ["sync", "async"]


@pytest.fixture
def folder(shell: Shell) -> str:
    """A folder of this test alone."""
    return f"shells/{os.urandom(6).hex()}"


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def next_event(listener: OpenListener, kind: str) -> ReceivedEvent:
    """The next event of a type; those of other tests are skipped."""
    while True:
        item = listener.next()
        assert not isinstance(item, EventGap)
        if item.type == kind:
            return item


@pytest.mark.parametrize("size", [0, 1, 300_000, LARGE])
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "pipe", "iterator", "own iterator"])
def test_every_source_is_stored_and_read_back(shell: Shell, folder: str, kind: str, size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    path = tmp_path / "source"
    path.write_bytes(content)
    blocks = [content[at : at + 70_001] for at in range(0, size, 70_001)]
    seen: list[TransferProgress] = []

    def store(source: Any) -> FileInfo:
        stored: FileInfo = shell.call("upload", source, f"{folder}/a b%.bin", progress=seen.append)
        return stored

    match kind:
        case "path":
            info = store(path)
        case "bytes":
            info = store(content)
        case "file":
            with path.open("rb") as file:
                info = store(file)
                assert not file.closed
        case "pipe":
            with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as process:
                info = store(process.stdout)
        case "iterator":
            info = store(iter(blocks))
        case _:
            info = store(shell.blocks(blocks))
    assert (info.path, info.length, info.sha256) == (f"{folder}/a b%.bin", size, hash_bytes(content))
    assert seen[-1] == TransferProgress("done", size, size, size)
    target = tmp_path / "target"
    assert shell.call("download", info.path, target) == info.etag
    assert target.read_bytes() == content
    assert sorted(one.name for one in tmp_path.iterdir()) == ["source", "target"]
    buffer = io.BytesIO()
    shell.call("download", info.path, buffer)
    assert buffer.getvalue() == content


def test_files_folders_info_and_remove(shell: Shell, folder: str) -> None:
    names = [f"{folder}/{number}.txt" for number in range(5)]
    for name in names:
        shell.call("upload", name.encode(), name, content_type="text/plain", metadata={"title": "Ü", "n": "1"})
    found = shell.items("files", folder)
    assert [info.path for info in found] == names[::-1]
    assert [info.path for info in shell.items("files", folder, query="3")] == [names[3]]
    assert folder in shell.items("folders")
    info: FileInfo = shell.call("info", names[0])
    assert (info.metadata, info.content_type) == ({"title": "Ü", "n": "1"}, "text/plain")
    with pytest.raises(NameConflict):
        shell.call("remove", names[0], etag='"other"')
    shell.call("remove", names[0], etag=info.etag)
    with pytest.raises(FileMissing) as caught:
        shell.call("info", names[0])
    assert caught.value.status == 404
    assert caught.value.request_id


def test_files_are_moved_and_restored(shell: Shell, folder: str) -> None:
    info: FileInfo = shell.call("upload", b"one", f"{folder}/a b%.txt", content_type="text/plain")
    shell.call("upload", b"two", f"{folder}/taken.txt")
    with pytest.raises(NameConflict):
        shell.call("move", info.path, f"{folder}/taken.txt")
    with pytest.raises(NameConflict):
        shell.call("move", info.path, f"{folder}/x.txt", etag='"other"')
    moved: FileInfo = shell.call("move", info.path, f"{folder}/below/ä.txt", etag=info.etag)
    assert (moved.id, moved.path, moved.etag) == (info.id, f"{folder}/below/ä.txt", info.etag)
    assert moved.revision > info.revision
    with pytest.raises(FileMissing):
        shell.call("move", info.path, f"{folder}/y.txt")
    with pytest.raises(NameConflict):
        shell.call("restore", moved.path)
    shell.call("remove", moved.path)
    assert shell.call("restore", moved.path).id == info.id
    with pytest.raises(FileMissing) as caught:
        shell.call("restore", f"{folder}/never.txt")
    assert caught.value.status == 410


def test_lists_have_more_than_one_page(shell: Shell, folder: str, stack: Stack) -> None:
    with httpx.Client(base_url=stack.url) as http:
        for number in range(205):
            http.put(f"/files/{folder}/{number}", content=b"x").raise_for_status()
    assert len({info.filename for info in shell.items("files", folder)}) == 205


@pytest.mark.parametrize("size", [10, LARGE])
def test_replacing_and_conflicts(shell: Shell, folder: str, size: int) -> None:
    first = shell.call("upload", os.urandom(size), f"{folder}/a")
    with pytest.raises(NameConflict, match="Not Unique"):
        shell.call("upload", os.urandom(size), f"{folder}/a")
    content = os.urandom(size)
    second = shell.call("upload", content, f"{folder}/a", replace=True)
    assert (second.id, second.sha256) == (first.id, hash_bytes(content))
    assert second.revision > first.revision


def test_random_reads_are_of_one_version(shell: Shell, folder: str) -> None:
    content = os.urandom(LARGE)
    shell.call("upload", content, f"{folder}/a")
    reads = [(0, 10), (LARGE - 5, 100), (123, 3 * MIB), (LARGE + 10, 5), (5 * MIB, 1), (5 * MIB + 1, MIB)]
    assert shell.read(f"{folder}/a", reads) == [content[at : at + size] for at, size in reads]


def test_a_replaced_file_is_reported_to_its_reader(stack: Stack) -> None:
    path = f"shells/{os.urandom(6).hex()}"
    with Client(stack.url) as client:
        client.upload(bytes(MIB), path)
        with client.open(path) as file:
            assert file.read(1) == b"\0"
            client.upload(b"1" * MIB, path, replace=True)
            file.seek(900_000)
            with pytest.raises(FileChanged):
                file.read(1)


def test_a_zip_is_read_through_ranges(stack: Stack, tmp_path: Path) -> None:
    """A judge from outside: zipfile seeks to the end, then to one member."""
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("large", os.urandom(8 * MIB))
        archive.writestr("small", b"hello")
    path = f"shells/{os.urandom(6).hex()}.zip"
    with Client(stack.url) as client:
        client.upload(packed, path)
        with client.open(path) as file, zipfile.ZipFile(io.BufferedReader(file)) as archive:
            assert archive.read("small") == b"hello"


def test_events_and_receipts(shell: Shell, folder: str) -> None:
    topic = f"t:{os.urandom(4).hex()}"
    with shell.listen(topic) as listener:
        assert len(listener.sid) == 52
        receipt: PushReceipt = shell.call("send", listener.sid, "hello", {"n": 1}, id="one")
        assert (receipt.status, receipt.duplicate) == ("sent", False)
        assert shell.call("send", listener.sid, "hello", {"n": 1}, id="one").duplicate
        event = next_event(listener, "hello")
        assert (event.data, event.id, event.topic) == ({"n": 1}, "one", None)
        shell.call("publish", topic, "news", [1, None, "ü"])
        assert next_event(listener, "news").topic == topic
        shell.call("broadcast", "for.all")
        assert next_event(listener, "for.all").data is None
        shell.call("upload", b"x", f"{folder}/a")
        while next_event(listener, "file.created").data["folder"] != folder:
            pass
        listener.call("unsubscribe", topic)
        listener.call("subscribe", f"{topic}2")
        with pytest.raises(InvalidRequest):
            listener.call("subscribe", "not a topic")
    with pytest.raises(FileMissing):
        shell.call("send", "A" * 52, "hello")


def test_a_push_waits_for_the_ack(shell: Shell) -> None:
    with shell.listen() as listener, ThreadPoolExecutor(1) as pool:
        sid = listener.sid

        def push(url: str) -> PushReceipt:
            with Client(url) as client:
                return client.send(sid, "question", wait=10)

        pushed = pool.submit(push, shell._client.url)  # type: ignore[attr-defined]
        listener.call("ack", next_event(listener, "question"))
        assert pushed.result(15).status == "delivered"


def test_a_changed_source_is_not_kept(shell: Shell, folder: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(LARGE))
    changed = threading.Event()

    def change(progress: TransferProgress) -> None:
        if progress.durable > 4 * MIB and not changed.is_set():
            path.write_bytes(b"1" * LARGE)
            changed.set()

    with pytest.raises(SourceChanged):
        shell.call("upload", path, f"{folder}/a", progress=change)
    with pytest.raises(FileMissing):
        shell.call("info", f"{folder}/a")


def test_an_interrupted_upload_is_continued_with_its_state(shell: Shell, folder: str, tmp_path: Path) -> None:
    path, state = tmp_path / "a", tmp_path / "state.json"
    path.write_bytes(os.urandom(LARGE))

    class Interrupted(Exception):
        """The process ends here."""

    def interrupt(progress: TransferProgress) -> None:
        if progress.durable > 8 * MIB:
            raise Interrupted

    with pytest.raises(Interrupted):
        shell.call("upload", path, f"{folder}/a", state=state, progress=interrupt)
    assert state.stat().st_mode & 0o777 == 0o600
    seen: list[TransferProgress] = []
    info = shell.call("upload", path, f"{folder}/a", state=state, progress=seen.append)
    assert seen[0].durable > 8 * MIB
    assert info.sha256 == hash_bytes(path.read_bytes())
    assert not state.exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("info", ("/a",)),
        ("upload", (b"x", "a//b")),
        ("upload", (5, "a")),
        ("upload", (io.StringIO("text"), "a")),
        ("download", ("a", 5)),
        ("send", ("../x", "t")),
        ("publish", ("t", "t", {1, 2})),
    ],
)
def test_wrong_arguments_are_refused_here(shell: Shell, name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        shell.call(name, *arguments)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_away(kind: str, unused_port: int) -> None:
    with open_shell(kind, f"http://127.0.0.1:{unused_port}", outage_seconds=1.0) as shell:
        for name, arguments in (("info", ("a",)), ("upload", (b"x", "a")), ("download", ("a", io.BytesIO()))):
            with pytest.raises(ServerUnavailable, match="could not be reached") as caught:
                shell.call(name, *arguments)
            assert caught.value.status is None
        with pytest.raises(ServerUnavailable), shell.listen():
            pass


@pytest.fixture
def unused_port() -> int:
    return free_ports(1)[0]


def public_methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    blocking, asynchronous = public_methods(Client), public_methods(AsyncClient)
    assert blocking.keys() - {"close"} == asynchronous.keys() - {"aclose"}
    for name in blocking.keys() - {"close"}:
        assert list(blocking[name].parameters) == list(asynchronous[name].parameters), name
        for one, other in zip(blocking[name].parameters.values(), asynchronous[name].parameters.values(), strict=True):
            assert (one.kind, one.default) == (other.kind, other.default), name


def named_types(annotation: object) -> set[str]:
    """The modules of every type in an annotation."""
    found = {str(getattr(annotation, "__module__", ""))}
    for argument in typing.get_args(annotation):
        parts = argument if isinstance(argument, list) else [argument]
        for part in parts:
            found |= named_types(part)
    return found


def test_no_type_of_an_http_library_is_public() -> None:
    """Signatures, attributes and bases of everything that can be imported by a public name.

    Each annotation is read where its function was defined, so that it means the same whatever else was imported before.
    """
    checked = 0
    for module in (gridcast, gridcast.errors, gridcast.values, gridcast.publish):
        for name in getattr(module, "__all__", dir(module)):
            thing = getattr(module, name)
            if name.startswith("_") or not isinstance(thing, type) or not thing.__module__.startswith("gridcast"):
                continue
            modules = {base.__module__ for base in thing.__mro__}
            for member in [thing, *vars(thing).values()]:
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if inspect.isfunction(function) or isinstance(member, type):
                    home = sys.modules[member.__module__ if isinstance(member, type) else function.__module__]
                    lazy = {name: getattr(gridcast, name) for name in gridcast.__all__}
                    hints = typing.get_type_hints(function, {**lazy, **vars(home), "WriteableBuffer": bytes})
                    modules = modules.union(*(named_types(hint) for hint in hints.values()), modules)
                    internal = {
                        module
                        for hint in hints.values()
                        for module in named_types(hint)
                        if module == "gridcast._bus.redis"
                    }
                    assert not internal, (name, internal)
            roots = {module.partition(".")[0] for module in modules}
            assert not roots & {"httpx", "httpcore", "websockets", "h11", "anyio", "redis"}, (name, roots)
            checked += 1
    assert checked > 25


def test_errors_carry_no_exception_of_another_library(shell: Shell) -> None:
    with pytest.raises(RequestError) as caught:
        shell.call("info", "none/none")
    assert caught.value.__cause__ is None
