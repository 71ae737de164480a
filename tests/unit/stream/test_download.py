"""services.stream.download where the store is slow, and where the file is replaced before its first block is read."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import PreconditionFailed, RangeNotSatisfiable, ServiceUnavailable
from services.common.media import MediaInfo, MediaName
from services.common.server.connection_info import CONNECTION_INFO_EXTENSION, ConnectionInfo
from services.common.store.errors import CorruptFile
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.download import FileDownload
from services.stream.metadata_cache import MetadataCache
from services.stream.response_sender import SendTimeoutMonitor

pytestmark = pytest.mark.anyio

FILE = MediaInfo("m", "1", "", "a", 200_000, "video/webm", "00", datetime(2026, 11, 20, tzinfo=UTC))
HALF_DEADLINE = 0.15


CONNECTION = {CONNECTION_INFO_EXTENSION: ConnectionInfo(extended_start=True)}
"""The extensions of a connection whose client reads what it is sent."""


class SlowStore:
    """Files whose blocks are zeros, unless they are in `missing_files`. Looking up and fetching take the given times."""

    block_size = 255 * 1024

    def __init__(self, *versions: MediaInfo) -> None:
        self.versions = list(versions)
        self.missing_files: set[str] = set()
        self.find_seconds = self.fetch_seconds = 0.0

    async def find(self, _: MediaName) -> MediaInfo | None:
        await asyncio.sleep(self.find_seconds)
        return self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]

    async def read_blocks(self, info: MediaInfo, first: int, last: int) -> list[bytes]:
        await asyncio.sleep(self.fetch_seconds)
        if info.file_id in self.missing_files:
            raise CorruptFile("lost")
        size = self.block_size
        return [bytes(min(size, info.length - number * size)) for number in range(first, last + 1)]


class DownloadCase:
    def __init__(self, store: Any, patience: float = 10) -> None:
        self.patience = SendTimeoutMonitor(patience)
        self.cache = BlockCache(store, 10**7)
        self.flow = FileDownload(MetadataCache(store, 10, lambda: True), self.cache, self.patience)
        self.sent: list[Any] = []

    async def get(self, **headers: str) -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "method": "GET",
            "path": "/file/stream",
            "query_string": b"filename=a",
            "headers": raw,
            "extensions": CONNECTION,
        }

        async def send(message: Any) -> None:
            self.sent.append(message)

        async def receive() -> dict[str, str]:
            await asyncio.Event().wait()
            raise AssertionError

        async with asyncio.timeout(5):
            await asyncio.create_task(self._call(scope, receive, send))

    async def _call(self, *arguments: Any) -> None:
        await self.flow(*arguments)

    @property
    def body_length(self) -> int:
        return sum(len(message.get("body", b"")) for message in self.sent)

    @contextlib.contextmanager
    def run_timeout_monitor(self) -> Iterator[None]:
        clock = asyncio.create_task(self.patience.run())
        yield
        clock.cancel()


async def test_slow_store_is_no_stalled_client() -> None:
    store = SlowStore(FILE)
    store.find_seconds = store.fetch_seconds = HALF_DEADLINE
    case = DownloadCase(store, 0.08)
    with case.run_timeout_monitor():
        await case.get()
    assert case.body_length == FILE.length


@pytest.mark.parametrize(("finding", "fetching"), [(9, 0), (0, 9), (HALF_DEADLINE, HALF_DEADLINE), (HALF_DEADLINE, 9)])
async def test_hanging_store_has_one_timeout_for_all_retries(
    finding: float, fetching: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.stream.download.FIRST_BYTE_TIMEOUT_SECONDS", 1.6 * HALF_DEADLINE)
    store = SlowStore(FILE)
    store.find_seconds, store.fetch_seconds = finding, fetching
    case = DownloadCase(store)
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        await case.get()
    assert time.monotonic() - began < 9
    assert case.sent == []
    await case.cache.aclose()


@pytest.mark.parametrize(("finding", "fetching"), [(9, 0), (0, 9)])
async def test_shutdown_before_the_response_head_is_503(finding: float, fetching: float) -> None:
    store = SlowStore(FILE)
    store.find_seconds, store.fetch_seconds = finding, fetching
    case = DownloadCase(store)
    task = asyncio.create_task(case.get())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(ServiceUnavailable, match="shutting down"):
        await task
    assert case.sent == []
    await case.cache.aclose()


async def _download_replaced(newer: MediaInfo, **headers: str) -> DownloadCase:
    """FILE is cached, and by the time its blocks are fetched they are deleted."""
    store = SlowStore(FILE, newer)
    store.missing_files = {FILE.file_id}
    case = DownloadCase(store)
    await case.flow._metadata_cache.get_or_fetch(MediaName("", "a"))
    await case.get(**headers)
    return case


NEWER_FILE = replace(FILE, file_id="2", sha256="11")


async def test_a_file_replaced_before_its_first_block_is_read() -> None:
    case = await _download_replaced(replace(NEWER_FILE, length=100_000))
    assert (case.sent[0]["status"], case.body_length) == (200, 100_000)


async def test_newer_file_is_empty() -> None:
    case = await _download_replaced(replace(NEWER_FILE, length=0))
    assert [message["type"] for message in case.sent] == ["http.response.start", "http.response.body"]
    assert (case.sent[0]["status"], case.body_length) == (200, 0)


async def test_newer_file_is_not_modified() -> None:
    case = await _download_replaced(NEWER_FILE, if_none_match=NEWER_FILE.etag)
    assert [message["type"] for message in case.sent] == ["http.response.start", "http.response.body"]
    assert case.sent[0]["status"] == 304


async def test_newer_file_fails_the_precondition() -> None:
    with pytest.raises(PreconditionFailed):
        await _download_replaced(NEWER_FILE, if_match=FILE.etag)
    with pytest.raises(RangeNotSatisfiable):
        await _download_replaced(replace(NEWER_FILE, length=5), range="bytes=100-")


async def test_repeatedly_deleted_files() -> None:
    """The last one is promised and aborted: without any response it would be an internal error."""
    store = SlowStore(FILE, NEWER_FILE)
    store.missing_files = {FILE.file_id, NEWER_FILE.file_id}
    case = DownloadCase(store)
    counted = metrics.CORRUPT_FILES._value.get()
    await case.get()
    assert [message["type"] for message in case.sent] == ["http.response.start"]
    assert metrics.CORRUPT_FILES._value.get() == counted + 1
