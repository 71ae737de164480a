"""A page of the list costs the same wherever it is, in every store: by its plan, by what is examined, and by the clock."""

import contextlib
import json
import sqlite3
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pymongo
import pytest
from bson import ObjectId
from sqlalchemy import Engine, event

from services.common.settings import StoreSettings
from services.common.store.factory import MediaStore
from services.common.store.files.clock import to_milliseconds
from services.common.store.files.database import SQLITE_FILENAME
from services.common.store.media_reader import ListQuery, PageKey
from tests.support.opened_stores import STORE_KINDS, opened_store, with_stores

pytestmark = pytest.mark.anyio
PAGE_SIZE = 50
FOLDERS = 10
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FILES_OF_ONE_TIME = 3
ROUNDS = 100
MAX_EXAMINED = {
    "gridfs": PAGE_SIZE + 2 * FILES_OF_ONE_TIME + 1,
    "sqlite": 1500,
    # It may prefer the index of all files for a folder with a tenth of them.
    "postgresql": FOLDERS * (PAGE_SIZE + 2),
}
"""Keys of an index, instructions of SQLite, and rows of an index, for one page, however many files there are."""
FILE_COUNTS = [5000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]


def describe(number: int) -> dict[str, Any]:
    """The columns of a file in `media`, of which a few have the same time."""
    return {
        "id": str(ObjectId(f"{number:024x}")),
        "folder": f"folder {number % FOLDERS}",
        "filename": f"{number}.mp4",
        "search_name": f"{number}.mp4",
        "revision": 1,
        "file_id": f"{number + (1 << 40):024x}",
        "length": 0,
        "content_type": "video/mp4",
        "sha256": "0" * 64,
        "etag": '"e"',
        "uploaded_at": to_milliseconds(BEGIN + timedelta(milliseconds=number // FILES_OF_ONE_TIME)),
        "metadata": "{}",
    }


async def fill(settings: StoreSettings, count: int) -> None:
    """Write the rows or documents of that many empty files directly."""
    rows = [describe(number) for number in range(count)]
    if settings.store == "gridfs":
        with open_mongodb(settings) as database:
            database["media"].insert_many(map(document_of, rows))
    elif url := settings.database_url.get_secret_value():
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        await connection.copy_records_to_table(
            "media", columns=list(rows[0]), records=[tuple(r.values()) for r in rows]
        )
        await connection.execute("ANALYZE media")
        await connection.close()
    else:
        with contextlib.closing(open_sqlite(settings)) as connection:
            marks = ", ".join(f":{name}" for name in rows[0])
            connection.executemany(f"INSERT INTO media ({', '.join(rows[0])}) VALUES ({marks})", rows)
            connection.commit()


def document_of(row: dict[str, Any]) -> dict[str, Any]:
    version = {name: row[name] for name in ("length", "content_type", "sha256", "etag")}
    at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=row["uploaded_at"])
    lists: dict[str, Any] = {name: [] for name in ("uploads", "ended", "doomed", "announce")}
    current = {"file": ObjectId(row["file_id"]), **version, "uploaded_at": at}
    named = {"folder": row["folder"], "filename": row["filename"], "revision": 1}
    return {"_id": ObjectId(row["id"]), **named, "current": current, **lists, "attention": None}


@contextlib.contextmanager
def open_mongodb(settings: StoreSettings) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](settings.mongodb_uri.get_secret_value()) as client:
        yield client[settings.mongodb_database]


def open_sqlite(settings: StoreSettings) -> sqlite3.Connection:
    return sqlite3.connect(f"{settings.files_dir}/{SQLITE_FILENAME}")


async def walk(store: MediaStore, folder: str | None) -> tuple[list[PageKey | None], list[str]]:
    """Read the whole list: the key before each page, and all ids."""
    keys: list[PageKey | None] = []
    ids: list[str] = []
    after: PageKey | None = None
    while True:
        keys.append(after)
        page = await store.reader.list_files(ListQuery(folder=folder, after=after, limit=PAGE_SIZE))
        ids += [info.id for info in page.files]
        if (after := page.next_key) is None:
            return keys, ids


@with_stores(*((kind,) for kind in STORE_KINDS))
@pytest.mark.parametrize("count", FILE_COUNTS)
@pytest.mark.parametrize("folder", [None, "folder 3"])
async def test_the_cost_of_a_page_does_not_grow_with_its_offset(
    stores: list[StoreSettings], count: int, folder: str | None
) -> None:
    (settings,) = stores
    async with opened_store(settings) as store:
        await fill(settings, count)
        keys, ids = await walk(store, folder)
        numbers = [number for number in range(count) if folder in {None, f"folder {number % FOLDERS}"}]
        assert ids == [f"{number:024x}" for number in reversed(numbers)]
        places = [keys[place] for place in (1, len(keys) // 2, -2)]
        costs = [await examine(settings, store, folder, place) for place in places]
        times = await measure(store, folder, places)
        figures = ", ".join(f"{value * 1000:.2f} ms" for value in times)
        print(
            f"{settings.store}, {len(ids)} files, {len(keys)} pages: beginning, middle, end examined {costs} in {figures}"
        )
        assert max(costs) <= MAX_EXAMINED[kind_of(settings)]
        if count >= 100_000 and folder is None:
            assert max(times) < 1.5 * min(times)


def kind_of(settings: StoreSettings) -> str:
    if settings.store == "gridfs":
        return "gridfs"
    return "postgresql" if settings.database_url.get_secret_value() else "sqlite"


async def measure(store: MediaStore, folder: str | None, places: list[PageKey | None]) -> list[float]:
    """Read the pages at these places in turn, and return the median of the seconds of each."""
    seconds: list[list[float]] = [[] for _ in places]
    for _ in range(ROUNDS):
        for place, measured in zip(places, seconds, strict=True):
            began = time.perf_counter()
            await store.reader.list_files(ListQuery(folder=folder, after=place, limit=PAGE_SIZE))
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured) for measured in seconds]


async def examine(settings: StoreSettings, store: MediaStore, folder: str | None, after: PageKey | None) -> int:
    """Read one page, check that the plan of its query uses an index and sorts nothing, and return how much it examined."""
    query = ListQuery(folder=folder, after=after, limit=PAGE_SIZE)
    if settings.store == "gridfs":
        with open_mongodb(settings) as database:
            database.command("profile", 2)
            await store.reader.list_files(query)
            database.command("profile", 0)
            (asked,) = database["system.profile"].find({"op": "query", "ns": f"{database.name}.media"})
            database["system.profile"].drop()
        assert "IXSCAN" in asked["planSummary"]
        assert not asked.get("hasSortStage")
        return int(asked["keysExamined"])
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if "FROM media" in sql:
            statements.append((sql, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    try:
        await store.reader.list_files(query)
    finally:
        event.remove(Engine, "before_cursor_execute", record)
    ((sql, parameters),) = statements
    if url := settings.database_url.get_secret_value():
        return await examine_postgresql(url, sql, parameters)
    return examine_sqlite(settings, sql, parameters)


def examine_sqlite(settings: StoreSettings, sql: str, parameters: Any) -> int:
    """The number of instructions of SQLite's virtual machine."""
    with contextlib.closing(open_sqlite(settings)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        assert [step.partition(" USING ")[2].partition(" ")[0] for step in plan] == ["INDEX"], plan
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        connection.set_progress_handler(count, 1)
        assert len(connection.execute(sql, parameters).fetchall()) > 1
        return steps[0]


async def examine_postgresql(url: str, sql: str, parameters: Any) -> int:
    """The number of rows that the index has returned. Where two pages are left, they may be sorted."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        # `sql` has the placeholders of the driver already.
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *parameters)
    finally:
        await connection.close()
    leaves = list(leaves_of(json.loads(explained)[0]["Plan"]))
    assert {leaf["Node Type"] for leaf in leaves} <= {"Index Scan", "Bitmap Index Scan"}, explained
    return sum(int(leaf["Actual Rows"] + leaf.get("Rows Removed by Filter", 0)) for leaf in leaves)


def leaves_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in plan.get("Plans", ()):
        yield from leaves_of(child)
    if "Plans" not in plan:
        yield plan
