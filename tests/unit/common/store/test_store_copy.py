"""services.common.store.store_copy on stores in memory: which files are copied, and what happens where a store fails."""

import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.errors import Conflict, InsufficientStorage, ServiceUnavailable
from services.common.media import FolderFilter, MediaInfo, MediaName, Poster
from services.common.store import store_copy
from services.common.store.errors import CorruptFile
from services.common.store.file_importer import ImportOutcome, compare_versions
from services.common.store.media_reader import FolderTotals, ListQuery, MediaPage, PageKey
from services.common.store.store_copy import CopyProblem, CopyReport, StoreCopier, read_verified

pytestmark = pytest.mark.anyio
BLOCK_SIZE = 4
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def describe(number: int, data: bytes) -> MediaInfo:
    digest = hashlib.sha256(data).hexdigest()
    return MediaInfo(f"id {number}", f"file {number}", "f", f"n{number}", len(data), "a/b", digest, NOW)


class MemoryStore:
    """Files in a dictionary. `before_read` and `before_import` are called first, and may raise or change something."""

    block_size = BLOCK_SIZE

    def __init__(self, count: int = 0, page_size: int = 3) -> None:
        self.files: dict[str, tuple[MediaInfo, bytes]] = {}
        self.page_size = page_size
        self.free_bytes: int | None = None
        self.before_read: Callable[[MediaInfo], None] = lambda info: None
        self.before_import: Callable[[MediaInfo], None] = lambda info: None
        for number in range(count):
            data = bytes(range(number % 50))
            self.files[f"n{number}"] = (describe(number, data), data)

    async def get_free_bytes(self) -> int | None:
        return self.free_bytes

    async def find(self, name: MediaName) -> MediaInfo | None:
        found = self.files.get(name.filename)
        return found and found[0]

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """Pages of one length, each followed by an empty one."""
        start, _, kind = (list_query.after.id if list_query.after else "0 full").partition(" ")
        first = int(start)
        if kind == "empty":
            return MediaPage([], PageKey(NOW, f"{first} full"))
        infos = [info for info, _ in list(self.files.values())[first : first + self.page_size]]
        following = first + self.page_size
        return MediaPage(infos, PageKey(NOW, f"{following} empty") if following < len(self.files) else None)

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        raise AssertionError(info)

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        raise AssertionError(folders)

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        return ["f"]

    async def check_health(self) -> None: ...

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        self.before_read(info)
        current = self.files.get(info.filename)
        if current is None or current[0].file_id != info.file_id:
            raise CorruptFile("gone")
        data = current[1]
        starts = range(first_block * BLOCK_SIZE, min(len(data), (last_block + 1) * BLOCK_SIZE), BLOCK_SIZE)
        return [data[start : start + BLOCK_SIZE] for start in starts]

    async def import_poster(self, info: MediaInfo, poster: Poster) -> None:
        raise AssertionError(info, poster)

    async def import_file(self, info: MediaInfo, blocks: AsyncIterator[bytes]) -> ImportOutcome:
        self.before_import(info)
        current = self.files.get(info.filename)
        if (outcome := compare_versions(current and current[0], info)) is not None:
            return outcome
        self.files[info.filename] = (info, b"".join([block async for block in blocks]))
        return "imported"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "COPY_RETRY_SECONDS", 0)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 100])
async def test_all_files_are_copied_and_a_second_copy_finds_them(count: int) -> None:
    source, target = MemoryStore(count), MemoryStore()
    report = await StoreCopier(source, target, target).copy_all()
    assert target.files == source.files
    assert report == CopyReport(imported=count, imported_bytes=sum(len(data) for _, data in source.files.values()))
    again = await StoreCopier(source, target, target).copy_all()
    assert again == CopyReport(unchanged=count)
    assert again.seen == count


async def test_a_damaged_file_is_reported_and_the_others_are_copied() -> None:
    source, target = MemoryStore(20), MemoryStore()
    info, data = source.files["n9"]
    source.files["n9"] = (info, data[:-1] + b"?")
    short, data = source.files["n10"]
    source.files["n10"] = (short, data[:4])
    report = await StoreCopier(source, target, target).copy_all()
    assert sorted(problem.name.filename for problem in report.failed) == ["n10", "n9"]
    assert {problem.name.filename: problem.reason for problem in report.failed}["n9"].endswith("another SHA-256")
    assert target.files.keys() == source.files.keys() - {"n9", "n10"}
    assert (report.imported, report.failed_count, report.seen) == (18, 2, 20)


async def test_a_file_that_the_target_refuses_is_reported() -> None:
    source, target = MemoryStore(3), MemoryStore()
    other = describe(77, b"other")
    target.files["n1"] = (replace(other, filename="n1"), b"other")
    target.files["n2"] = (replace(source.files["n2"][0], file_id="local", revision=5), b"local")
    report = await StoreCopier(source, target, target).copy_all()
    assert [problem.name for problem in report.failed] == [MediaName("f", "n1")]
    assert report.kept == [MediaName("f", "n2")]
    assert target.files["n2"][1] == b"local"


async def test_a_file_that_was_deleted_after_it_was_listed_is_no_failure() -> None:
    source, target = MemoryStore(3), MemoryStore()

    def delete(info: MediaInfo) -> None:
        source.files.pop("n1", None)

    source.before_read = delete
    report = await StoreCopier(source, target, target).copy_all()
    assert (report.vanished, report.failed_count) == (1, 0)
    assert target.files.keys() == {"n0", "n2"}


@pytest.mark.parametrize(("changes", "copied"), [(1, True), (4, True), (5, False), (1000, False)])
async def test_a_file_that_was_replaced_after_it_was_listed_is_copied_as_it_is_now(changes: int, copied: bool) -> None:
    source, target = MemoryStore(2), MemoryStore()
    numbers = itertools.count(1)

    def replace_file(info: MediaInfo) -> None:
        if info.filename == "n1" and (number := next(numbers)) <= changes:
            data = str(number).encode() * 9
            changed = replace(describe(1, data), file_id=f"new {number}", revision=number)
            source.files["n1"] = (changed, data)

    source.before_read = replace_file
    report = await StoreCopier(source, target, target).copy_all()
    assert report.failed == ([] if copied else [CopyProblem(MediaName("f", "n1"), "it was replaced again and again")])
    assert ("n1" in target.files) is copied
    if copied:
        assert target.files["n1"] == source.files["n1"]


async def test_a_store_that_is_away_for_a_moment_is_waited_for() -> None:
    source, target = MemoryStore(10), MemoryStore()
    chance = random.Random(4)

    def fail_sometimes(info: MediaInfo) -> None:
        if chance.random() < 0.5:
            raise ServiceUnavailable("away")

    source.before_read = fail_sometimes
    target.before_import = fail_sometimes
    report = await StoreCopier(source, target, target).copy_all()
    assert report.imported == 10
    assert target.files == source.files


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), InsufficientStorage("full")])
@pytest.mark.parametrize("concurrent_files", [1, 8])
async def test_a_copy_stops_where_no_further_file_can_be_copied(error: Exception, concurrent_files: int) -> None:
    source, target = MemoryStore(500), MemoryStore()
    attempts = itertools.count()
    now = itertools.count(0, 10)

    def fail(info: MediaInfo) -> None:
        if next(attempts) >= 100:
            raise error

    target.before_import = fail
    copier = StoreCopier(source, target, target, concurrent_files=concurrent_files, clock=lambda: next(now))
    with pytest.raises(type(error)):
        await copier.copy_all()
    assert copier.report.imported == 100
    assert next(attempts) < 200


async def test_a_defect_is_not_hidden() -> None:
    source, target = MemoryStore(5), MemoryStore()

    def fail(info: MediaInfo) -> None:
        raise ZeroDivisionError

    target.before_import = fail
    with pytest.raises(ExceptionGroup):
        await StoreCopier(source, target, target).copy_all()


async def test_lists_of_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "MAX_LISTED", 5)
    source, target = MemoryStore(40), MemoryStore()

    def refuse(info: MediaInfo) -> None:
        raise Conflict("no")

    target.before_import = refuse
    report = await StoreCopier(source, target, target).copy_all()
    assert (report.failed_count, len(report.failed)) == (40, 5)


async def test_blocks_of_another_size_are_refused() -> None:
    target = MemoryStore()
    target.block_size = 5
    with pytest.raises(ValueError, match="different sizes"):
        StoreCopier(MemoryStore(), target, target)


@pytest.mark.parametrize("length", [0, 1, 4, 32, 33, 100])
async def test_blocks_are_yielded_in_order(length: int) -> None:
    store = MemoryStore()
    data = bytes(range(length))
    store.files["n0"] = (describe(0, data), data)
    blocks = [block async for block in read_verified(store, store.files["n0"][0])]
    assert b"".join(blocks) == data
    assert {len(block) for block in blocks[:-1]} <= {BLOCK_SIZE}


async def test_a_file_without_a_digest_is_checked_by_its_length() -> None:
    store = MemoryStore()
    info = replace(describe(0, b"abc"), sha256=None, stored_etag='"e"')
    store.files["n0"] = (info, b"xyz")
    assert [block async for block in read_verified(store, info)] == [b"xyz"]
    longer = replace(info, length=9)
    store.files["n0"] = (longer, b"xyz")
    with pytest.raises(CorruptFile):
        [block async for block in read_verified(store, longer)]


@pytest.mark.parametrize(
    ("free_bytes", "copied"), [(None, 40), (40 * 39 // 2 + 10, 40), (40 * 39 // 2 + 9, 39), (9, 0)]
)
async def test_the_copy_stops_before_the_disk_is_full(free_bytes: int | None, copied: int) -> None:
    """Also between two readings of the free space: forty files of 0 to 39 bytes within one second, the largest last."""
    source, target = MemoryStore(40), MemoryStore()
    target.free_bytes = free_bytes
    copier = StoreCopier(source, target, target, min_free_bytes=10, concurrent_files=1, clock=lambda: 0.0)
    if copied == 40:
        await copier.copy_all()
    else:
        with pytest.raises(InsufficientStorage, match="free disk space"):
            await copier.copy_all()
    assert copier.report.imported == copied


async def test_the_free_space_is_read_again() -> None:
    source, target = MemoryStore(40), MemoryStore()
    target.free_bytes = 1000
    seconds = itertools.count(0, 2)
    copier = StoreCopier(source, target, target, min_free_bytes=900, clock=lambda: next(seconds))
    await copier.copy_all()
    assert copier.report.imported == 40
