"""Uploads and downloads of the client without I/O, against a model of the server that injects faults."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridcast._flows import uploads
from gridcast._flows.downloads import DownloadFlow
from gridcast._flows.effects import HttpRequest, HttpResponse
from gridcast._flows.uploads import SavedUpload, UploadFlow, UploadOptions
from gridcast._local.sources import open_source
from gridcast._local.targets import open_target
from gridcast.errors import (
    DigestMismatch,
    FileChanged,
    FileMissing,
    InvalidRequest,
    LimitExceeded,
    NameConflict,
    ServerUnavailable,
    SourceChanged,
)
from gridcast.values import FileInfo, TransferProgress
from services.common.store.limits import BLOCK_SIZE
from tests.support.client_model import ModelServer, problem
from tests.support.sizes import MIB

PART = 100
CONTENT = bytes(range(256)) * 4
FAULTS = st.lists(st.sampled_from(["none", "refused", "lost", "cut", "503", "429"]), max_size=12)


class Killed(Exception):
    """The process ends here."""


class MemoryState:
    """The state of an upload, kept in memory."""

    def __init__(self, saved: SavedUpload | None = None) -> None:
        self.saved = saved

    def load(self) -> SavedUpload | None:
        return self.saved

    def save(self, upload: SavedUpload) -> None:
        self.saved = upload

    def clear(self) -> None:
        self.saved = None


@pytest.fixture(autouse=True)
def _tus_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SMALL_FILE_BYTES", 10)


def upload(
    server: ModelServer,
    source: object,
    *,
    options: UploadOptions | None = None,
    state: MemoryState | None = None,
    seen: list[TransferProgress] | None = None,
) -> FileInfo:
    opened = open_source(source)
    flow = UploadFlow(
        server.context(600),
        "demo/a.bin",
        opened,
        options or UploadOptions(part_bytes=PART),
        state=state,
        progress=None if seen is None else seen.append,
    )
    try:
        return server.run(flow.run())
    finally:
        opened.close()


@given(FAULTS, st.integers(0, 1024), st.sampled_from(["bytes", "file", "iterator"]))
@example(
    ["none", "lost", "refused", "refused", "refused", "refused"], 11, "bytes"
)  # stored, but the offset is not told
def test_uploads_survive_faults_and_send_at_most_a_part_again(faults: list[str], size: int, kind: str) -> None:
    content = CONTENT[:size]
    server = ModelServer(iter(faults))
    source: object = content
    if kind == "file":
        source = io.BytesIO(content)
    elif kind == "iterator":
        source = (content[at : at + 37] for at in range(0, size, 37))
    try:
        info = upload(server, source)
    except (ServerUnavailable, LimitExceeded):
        # Four failed attempts of one request, or of one creation.
        assert sum(fault != "none" for fault in faults) >= 4
        return
    assert server.files == {"demo/a.bin": content}
    assert info.length == size
    cuts = sum(fault in {"lost", "cut"} for fault in faults)
    assert server.sent_bytes <= size + max(PART, 10) * cuts


def test_parts_are_whole_blocks_of_the_store_and_end_at_multiples_of_their_size() -> None:
    """A part that ends within a block makes the store keep the rest apart."""
    assert uploads.PART_BYTES % BLOCK_SIZE == 0
    assert uploads.PART_BYTES <= 2 * MIB
    ends = []

    def record(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PATCH":
            ends.append(int(request.headers["upload-offset"]) + len(request.body))
        return None

    server = ModelServer(iter(["none", "none", "cut"]))
    server.on_request = record
    upload(server, CONTENT)
    assert server.files == {"demo/a.bin": CONTENT}
    assert ends[-1] == len(CONTENT)
    assert not [end for end in ends[:-1] if end % PART]


@given(FAULTS, st.integers(0, 1024))
def test_downloads_survive_faults(faults: list[str], size: int) -> None:
    content = CONTENT[:size]
    server = ModelServer(iter(["none", *faults]), {"a.bin": content})
    target = io.BytesIO()
    server.run(DownloadFlow(server.context(600), "a.bin", open_target(target), None).run())
    assert target.getvalue() == content


def test_a_killed_upload_is_continued_from_its_state(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    server, state = ModelServer(), MemoryState()
    calls = 0

    def stop_at_the_fourth(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        nonlocal calls
        if request.method == "PATCH":
            calls += 1
            if calls == 4:
                raise Killed
        return None

    server.on_request = stop_at_the_fourth
    with pytest.raises(Killed):
        upload(server, path, state=state)
    assert state.saved is not None
    upload(server, path, state=state)
    assert server.files == {"demo/a.bin": CONTENT}
    assert server.sent_bytes == len(CONTENT)
    assert state.saved is None


def test_a_changed_file_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    server = ModelServer(uploads={"/file/tus/u9": ("demo/a.bin", len(CONTENT), bytearray(b"x" * 50))})
    state = MemoryState(SavedUpload("/file/tus/u9", "demo/a.bin", len(CONTENT), "another"))
    upload(server, path, state=state)
    assert server.files == {"demo/a.bin": CONTENT}
    assert server.uploads == {}, "the old upload was not ended"


def test_an_upload_that_is_not_there_any_more_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    source = open_source(path)
    state = MemoryState(SavedUpload("/file/tus/other", "demo/a.bin", len(CONTENT), source.fingerprint))
    source.close()
    server = ModelServer()
    upload(server, path, state=state)
    assert server.files == {"demo/a.bin": CONTENT}


def test_an_upload_that_expires_under_way_begins_anew_once() -> None:
    server = ModelServer()
    patches = 0

    def expire(model: ModelServer, request: HttpRequest) -> HttpResponse | None:
        nonlocal patches
        patches += request.method == "PATCH"
        if patches == 3 and request.method == "PATCH":
            model.uploads.clear()
        return None

    server.on_request = expire
    upload(server, CONTENT)
    assert server.files == {"demo/a.bin": CONTENT}


def test_a_source_that_changes_is_reported_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    server = ModelServer()

    def change(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PATCH" and request.headers["upload-offset"] == "500":
            path.write_bytes(CONTENT[::-1])
        return None

    server.on_request = change
    with pytest.raises(SourceChanged):
        upload(server, path)
    assert server.files == {}


def test_other_stored_bytes_are_reported_and_removed() -> None:
    server = ModelServer()

    def corrupt(model: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PATCH" and request.headers["upload-offset"] == "500":
            (only,) = model.uploads.values()
            only[2][:1] = b"\xff"
        return None

    server.on_request = corrupt
    with pytest.raises(DigestMismatch):
        upload(server, CONTENT)
    assert server.files == {}


@pytest.mark.parametrize("content", [b"small", CONTENT])
def test_a_taken_name_is_a_conflict(content: bytes) -> None:
    server = ModelServer(files={"demo/a.bin": b"other"})
    with pytest.raises(NameConflict, match="Not Unique") as caught:
        upload(server, content)
    assert caught.value.request_id == "r1"
    assert server.files == {"demo/a.bin": b"other"}


def test_a_put_whose_response_was_lost_is_no_conflict_with_itself() -> None:
    server = ModelServer(iter(["lost"]))
    assert upload(server, b"small").length == 5
    with pytest.raises(NameConflict):
        upload(server, b"small")


def test_a_large_file_is_replaced_in_one_request() -> None:
    server = ModelServer(files={"demo/a.bin": b"other"})
    seen: list[bytes] = []

    def receive(model: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if request.source is not None:
            seen.append(request.source.read(request.length))  # type: ignore[attr-defined]
            model.files["demo/a.bin"] = seen[0]
            return model._describe("demo/a.bin", 200)
        return None

    server.on_request = receive
    upload(server, CONTENT, options=UploadOptions(replace=True))
    assert seen == [CONTENT]
    with pytest.raises(InvalidRequest, match="seekable"):
        upload(server, iter([CONTENT]), options=UploadOptions(replace=True))


def test_progress_never_falls_and_ends_with_done() -> None:
    seen: list[TransferProgress] = []
    upload(ModelServer(), CONTENT, seen=seen)
    assert [one.durable for one in seen] == sorted(one.durable for one in seen)
    assert seen[-1] == TransferProgress("done", len(CONTENT), len(CONTENT), len(CONTENT))
    assert "verifying" in {one.state for one in seen}


def test_an_outage_ends_a_transfer_after_its_time() -> None:
    def silence() -> Iterator[str]:
        yield "none"
        while True:
            yield "refused"

    server = ModelServer(silence())
    source = open_source(CONTENT)
    flow = UploadFlow(server.context(60), "a", source, UploadOptions(part_bytes=PART), state=None, progress=None)
    with pytest.raises(ServerUnavailable, match="could not be reached"):
        server.run(flow.run())
    assert 40 < server.now <= 75


def test_a_part_file_is_continued_and_a_replaced_file_begins_anew(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    server = ModelServer(iter(["none", "cut"]), {"a.bin": CONTENT})
    opened = open_target(target)
    with pytest.raises(ServerUnavailable):
        server.run(DownloadFlow(server.context(0), "a.bin", opened, None).run())
    opened.close()
    assert not target.exists()
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == CONTENT[:512]
    opened = open_target(target)
    server.run(DownloadFlow(server.context(), "a.bin", opened, None).run())
    assert server.requests[-1].headers["range"] == "bytes=512-"
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]

    newer = CONTENT[::-1]
    server.faults = iter(["none", "cut"])

    def replace_at_the_second_get(model: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if "if-range" in request.headers:
            model.files["a.bin"] = newer
        return None

    server.on_request = replace_at_the_second_get
    server.run(DownloadFlow(server.context(), "a.bin", opened, None).run())
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(newer).digest()

    server.faults = iter(["none", "cut"])
    server.files["a.bin"] = CONTENT
    with pytest.raises(FileChanged):
        server.run(DownloadFlow(server.context(), "a.bin", open_target(io.BytesIO()), None).run())


def test_a_wrong_digest_keeps_nothing(tmp_path: Path) -> None:
    server = ModelServer(files={"a.bin": CONTENT})

    def lie(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        headers = {"etag": f'"sha256-{"0" * 64}"', "content-length": "3"}
        return HttpResponse(200, headers, b"abc" if request.method == "GET" else b"")

    server.on_request = lie
    with pytest.raises(DigestMismatch):
        server.run(DownloadFlow(server.context(), "a.bin", open_target(tmp_path / "x"), None).run())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    server = ModelServer()
    with pytest.raises(FileMissing, match="file not found"):
        server.run(DownloadFlow(server.context(), "none", open_target(tmp_path / "x"), None).run())
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_is_a_conflict() -> None:
    server = ModelServer()

    def take(model: ModelServer, request: HttpRequest) -> HttpResponse | None:
        if request.method == "PATCH" and request.headers["upload-offset"] == "1000":
            model.files["demo/a.bin"] = b"other"
        return None

    server.on_request = take
    with pytest.raises(NameConflict):
        upload(server, CONTENT)


def test_no_progress_of_the_server_is_no_endless_loop() -> None:
    server = ModelServer()

    def stand_still(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        return HttpResponse(204, {"upload-offset": "0"}) if request.method == "PATCH" else None

    server.on_request = stand_still
    with pytest.raises(Exception, match="accepted nothing"):
        upload(server, CONTENT)


@pytest.mark.parametrize("status", [400, 415, 507])
def test_a_refusal_is_not_repeated(status: int) -> None:
    server = ModelServer()
    server.on_request = lambda _server, _request: problem(status, "no")
    with pytest.raises(Exception, match=r"no \(status"):
        upload(server, CONTENT)
    assert len(server.requests) == 1
