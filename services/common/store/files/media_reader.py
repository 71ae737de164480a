"""Reads media: the current version of a name out of the database, then blocks out of its file. Read-only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.sql import Select

from services.common.errors import BadRequest
from services.common.media import FolderFilter, MediaInfo, MediaName, Poster
from services.common.store.files import schema
from services.common.store.files.clock import from_milliseconds, to_milliseconds
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.ids import is_id
from services.common.store.files.rows import Row, decode_media_info, fold
from services.common.store.limits import BLOCK_SIZE, SEARCH_SCAN_LIMIT
from services.common.store.media_reader import FolderTotals, ListQuery, MediaPage, PageKey, Sort

media = schema.media
_CURRENT = media.c.uploaded_at.is_not(None)
_AFTER_SLASH = "0"
"""The character that follows the slash: what begins with `x/` is less than `x0`."""
EXISTENCE_BATCH = 100
"""Folders looked for by one statement: SQLite limits the parts of a union."""
_FIND = select(media).where(
    media.c.folder == bindparam("of_folder"), media.c.filename == bindparam("of_filename"), _CURRENT
)
"""Built once: to build a statement takes longer than to run it."""
_SORT_COLUMNS: dict[Sort, Column[Any]] = {
    "time": media.c.uploaded_at,
    "name": media.c.filename,
    "size": media.c.length,
}


class FilesMediaReader:
    """A `MediaReader` of files."""

    block_size = BLOCK_SIZE

    def __init__(self, files: FilesDatabase) -> None:
        self._files = files
        self._database = files.database

    async def check_health(self) -> None:
        """Check that the database and the folder respond."""
        await self._files.check()

    async def find(self, name: MediaName) -> MediaInfo | None:
        """Read the row of that name."""
        named = {"of_folder": name.folder, "of_filename": name.filename}
        row = await self._database.read(lambda connection: connection.execute(_FIND, named).mappings().first())
        return None if row is None else decode_media_info(row)

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Read blocks in a thread, after the length of the file was compared."""
        return await _read_blocks(self._files, self.block_size, info, first_block, last_block)

    async def read_poster(self, info: MediaInfo) -> Poster | None:
        """Read the row of the poster."""
        posters = schema.posters
        statement = select(posters).where(posters.c.file_id == info.file_id, posters.c.etag == info.poster_etag)
        row = await self._database.read(lambda connection: connection.execute(statement).mappings().first())
        if row is None:
            return None
        sha256 = row["etag"].removeprefix('"sha256-').removesuffix('"')
        return Poster(bytes(row["data"]), row["content_type"], sha256)

    async def list_files(self, list_query: ListQuery) -> MediaPage:
        """Read the index from a key on; a search ends after at most SEARCH_SCAN_LIMIT names."""
        statement = select(media).where(_CURRENT).order_by(*_order_of(list_query))
        column, descending = _SORT_COLUMNS[list_query.sort], list_query.descending
        if list_query.folder is not None:
            statement = statement.where(media.c.folder == list_query.folder)
        if list_query.readable is not None:
            statement = statement.where(_is_readable(list_query.readable))
        if (after := list_query.after) is not None:
            value = _parse_page_key(after, list_query.sort)
            follows = (
                (column <= value, or_(column < value, media.c.id < after.id))
                if descending
                else (column >= value, or_(column > value, media.c.id > after.id))
            )
            statement = statement.where(*follows)
        end: PageKey | None = None
        if list_query.filename_contains:
            end = await self._find_scan_end(statement, list_query.sort)
            if end is not None:
                value = _parse_page_key(end, list_query.sort)
                is_before_end = (
                    (column >= value, or_(column > value, media.c.id >= end.id))
                    if descending
                    else (column <= value, or_(column < value, media.c.id <= end.id))
                )
                statement = statement.where(*is_before_end)
            needle = fold(list_query.filename_contains)
            statement = statement.where(media.c.search_name.contains(needle, autoescape=True))
        statement = statement.limit(list_query.limit + 1)
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        page = rows[: list_query.limit]
        return MediaPage(
            [decode_media_info(row) for row in page],
            _page_key(page[-1], list_query.sort) if len(rows) > len(page) else end,
        )

    async def _find_scan_end(self, statement: Select[tuple[object, ...]], sort: Sort) -> PageKey | None:
        """Return the last key that a search examines, None where the list ends before it."""
        columns = (media.c.id, _SORT_COLUMNS[sort])
        keys = statement.with_only_columns(*columns).offset(SEARCH_SCAN_LIMIT - 1).limit(1)
        row = await self._database.read(lambda connection: connection.execute(keys).mappings().first())
        return None if row is None else _page_key(row, sort)

    async def sum_folders(self, folders: Sequence[str]) -> list[FolderTotals]:
        """Add up the lengths in the index by size."""
        statement = (
            select(media.c.folder, func.count(), func.sum(media.c.length))
            .where(media.c.folder.in_(folders), _CURRENT)
            .group_by(media.c.folder)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        found = {folder: (files, int(total)) for folder, files, total in rows}
        return [FolderTotals(folder, *found.get(folder, (0, 0))) for folder in folders]

    async def list_folders(self, after: str | None, limit: int, readable: FolderFilter | None = None) -> list[str]:
        """Skip from folder to folder in the index, however many files each has. Of what is readable, each tree is a range of it."""
        follows = true() if after is None else media.c.folder > after
        if readable is None:
            return await self._database.read(lambda connection: _skip_scan(connection, follows, None, limit))
        return await self._database.read(lambda connection: _list_readable(connection, after, limit, readable))


class FilesBlockReader:
    """A `BlockReader` of files, whose blocks are larger than those that are written.

    A response is sent block by block: of 512 KiB a range of 1 MiB takes three, of 255 KiB five. It took 0.98 of the CPU, and one of
    64 KiB, which ends in a second block less often, 0.96: medians of 22 pairs. A stopped reader holds one block.
    """

    block_size = 512 * 1024

    def __init__(self, files: FilesDatabase) -> None:
        self._files = files

    async def read_blocks(self, info: MediaInfo, first_block: int, last_block: int) -> list[bytes]:
        """Read blocks in a thread, after the length of the file was compared."""
        return await _read_blocks(self._files, self.block_size, info, first_block, last_block)


async def _read_blocks(
    files: FilesDatabase, block_size: int, info: MediaInfo, first_block: int, last_block: int
) -> list[bytes]:
    first, end = first_block * block_size, (last_block + 1) * block_size
    return await files.threads.run(files.folder.read_pieces, info.file_id, info.length, first, end, block_size)


def _list_readable(connection: Connection, after: str | None, limit: int, readable: FolderFilter) -> list[str]:
    named = [folder for folder in sorted(readable.exact | readable.trees) if after is None or folder > after]
    found: set[str] = set()
    for start in range(0, len(named), EXISTENCE_BATCH):
        batch = named[start : start + EXISTENCE_BATCH]
        holding = [select(literal(name)).where(exists().where(media.c.folder == name, _CURRENT)) for name in batch]
        found.update(connection.execute(union_all(*holding)).scalars())
    below: list[str] = []
    # In this order ranges follow each other, or the first contains the next.
    for first in sorted(f"{tree}/" for tree in readable.trees):
        end = f"{first[:-1]}{_AFTER_SLASH}"
        last = max(after or "", below[-1] if below else "")
        follows = media.c.folder > last if last >= first else media.c.folder >= first
        if len(below) < limit and last < end:
            below += _skip_scan(connection, follows, end, limit - len(below))
    return sorted(found.union(below))[:limit]


def _skip_scan(connection: Connection, follows: ColumnElement[bool], end: str | None, limit: int) -> list[str]:
    """The folders from the first one that `follows` on, and before `end`: one step in the index for each."""
    inner = schema.media.alias("following")
    bound, inner_bound = (true(), true()) if end is None else (media.c.folder < end, inner.c.folder < end)
    folders = (
        select(func.min(media.c.folder).label("folder")).where(_CURRENT, follows, bound).cte("folders", recursive=True)
    )
    following = (
        select(func.min(inner.c.folder))
        .where(inner.c.uploaded_at.is_not(None), inner.c.folder > folders.c.folder, inner_bound)
        .correlate(folders)
        .scalar_subquery()
    )
    folders = folders.union_all(select(following).where(folders.c.folder.is_not(None)))
    statement = select(folders.c.folder).where(folders.c.folder.is_not(None)).limit(limit)
    return list(connection.execute(statement).scalars())


def _is_readable(readable: FolderFilter) -> ColumnElement[bool]:
    """Whether a row's folder is in the set. A tree is a range, for which an index can be used."""
    below = [
        and_(media.c.folder >= f"{tree}/", media.c.folder < f"{tree}{_AFTER_SLASH}") for tree in sorted(readable.trees)
    ]
    return or_(media.c.folder.in_(sorted(readable.exact | readable.trees)), *below)


def _order_of(list_query: ListQuery) -> list[ColumnElement[Any]]:
    columns: list[ColumnElement[Any]] = [_SORT_COLUMNS[list_query.sort], media.c.id]
    if list_query.sort == "name" and list_query.folder is not None:  # unique there: the index of names has no ids
        columns = columns[:1]
    return [column.desc() if list_query.descending else column.asc() for column in columns]


def _page_key(row: Row, sort: Sort) -> PageKey:
    value = row[_SORT_COLUMNS[sort].name]
    return PageKey(from_milliseconds(value) if sort == "time" else value, row["id"])


def _parse_page_key(key: PageKey, sort: Sort) -> str | int:
    """The value of the column that the list is sorted by. Raises BadRequest for what `_page_key` has not made."""
    if not is_id(key.id):
        raise BadRequest("invalid page token 'after'")
    if key.sort != sort:
        raise BadRequest("invalid page token 'after': it is of a list in another order")
    return to_milliseconds(key.value) if isinstance(key.value, datetime) else key.value
