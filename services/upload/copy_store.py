"""Copies all files of one store into another, with everything that is stored about them. Begun again, it continues.

python -m services.upload.copy_store FROM TO

FROM and TO are addresses of stores:

    mongodb://USER:PASSWORD@HOST:PORT   MongoDB, in any form of its connection strings; --from-database and --to-database name the
                                        database, gridcast otherwise
    files:DIR                           a folder, with its SQLite file in it
    files:DIR?database=URL              a folder, and its database as in GRIDCAST_DATABASE_URL
    @PATH                               the address is in this file: arguments of a process are visible to all users of its machine
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr

from services.common.database_url import check_database_url
from services.common.errors import GridcastError
from services.common.mongodb_uri import check_mongodb_uri
from services.common.settings import StoreSettings, load_settings
from services.common.store.factory import MediaStore, open_store
from services.common.store.store_copy import CopyReport, StoreCopier
from services.common.store.timings import StoreTimings
from services.common.telemetry.json_logging import configure_logging

PROGRESS_SECONDS = 5.0
_FILES_PREFIX = "files:"
_DATABASE_OPTION = "?database="
_INTERRUPTED_STATUS = 130


class _ArgumentParser(argparse.ArgumentParser):
    """Its own messages would quote arguments, which hold passwords."""

    def error(self, message: str) -> NoReturn:
        del message
        self.exit(2, f"{self.format_usage()}copy_store: it takes two addresses and these options\n")


def main(arguments: Sequence[str]) -> int:
    """Copy as the arguments say; return the exit status: 1 where a file was not copied, 2 for invalid arguments."""
    parser = _ArgumentParser(
        "python -m services.upload.copy_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("target", metavar="TO")
    for side in ("from", "to"):
        parser.add_argument(f"--{side}-database", default="gridcast", metavar="NAME")
    parser.add_argument(
        "--min-free-space",
        type=int,
        default=2 * 1024**3,
        metavar="BYTES",
        help="stop before less is free on the disk of TO",
    )
    options = parser.parse_args(arguments)
    try:
        source = parse_address(options.source, options.from_database)
        target = parse_address(options.target, options.to_database)
    except ValueError as error:
        sys.stderr.write(f"copy_store: {error}\n")
        return 2
    configure_logging("copy", "warning")  # the command itself speaks in plain lines
    try:
        return asyncio.run(_copy(source, target, options.min_free_space))
    except KeyboardInterrupt:
        sys.stderr.write("copy_store: interrupted; begin again to continue\n")
        return _INTERRUPTED_STATUS


def parse_address(address: str, database: str) -> StoreSettings:
    """Return the settings that open the store at an address. `database` is that of MongoDB.

    Raises ValueError, whose text contains no part of the address. Exits where variables of the environment are invalid.
    """
    if address.startswith("@"):
        try:
            address = Path(address[1:]).read_text("utf-8").strip()
        except (OSError, ValueError):
            raise ValueError("an address @PATH names a file that cannot be read") from None
    if address.startswith(("mongodb://", "mongodb+srv://")):
        check_mongodb_uri(address)
        return load_settings(StoreSettings, store="gridfs", mongodb_uri=SecretStr(address), mongodb_database=database)
    if address.startswith(_FILES_PREFIX):
        folder, _, database_url = address.removeprefix(_FILES_PREFIX).partition(_DATABASE_OPTION)
        if not folder or not folder.isprintable() or (not database_url and address.endswith(_DATABASE_OPTION)):
            raise ValueError("an address of a files store is files:DIR or files:DIR?database=URL")
        if database_url:
            check_database_url(database_url)
        return load_settings(StoreSettings, store="files", files_dir=folder, database_url=SecretStr(database_url))
    raise ValueError(
        "an address begins with mongodb://, mongodb+srv:// or files:, or is @ and the path of a file with one"
    )


async def _copy(source_settings: StoreSettings, target_settings: StoreSettings, min_free_bytes: int) -> int:
    try:
        async with _opened(source_settings) as source, _opened(target_settings) as target:
            await source.reader.check_health()
            await target.uploads.ensure_schema()
            copier = StoreCopier(source.reader, target.importer, target.uploads, min_free_bytes=min_free_bytes)
            return await _copy_all(copier)
    except (GridcastError, RuntimeError) as error:
        sys.stderr.write(f"copy_store: {error}\n")
        return 1


@asynccontextmanager
async def _opened(settings: StoreSettings) -> AsyncIterator[MediaStore]:
    store = open_store(settings, StoreTimings())
    try:
        yield store
    finally:
        await store.aclose()


async def _copy_all(copier: StoreCopier) -> int:
    reporter = asyncio.create_task(_report_progress(copier.report))
    stopped_by: GridcastError | None = None
    try:
        await copier.copy_all()
    except GridcastError as error:
        stopped_by = error
    finally:
        reporter.cancel()
        with suppress(asyncio.CancelledError):
            await reporter
    _report_result(copier.report)
    if stopped_by is not None:
        sys.stderr.write(f"copy_store: stopped: {stopped_by.detail}; begin again to continue\n")
    return 1 if stopped_by is not None or copier.report.failed_count else 0


async def _report_progress(report: CopyReport) -> None:
    started_at = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        rate = report.imported_bytes / (time.monotonic() - started_at) / 1e6
        _write_line(f"{report.seen} files so far: {_describe(report)}; {rate:.1f} MB/s")


def _report_result(report: CopyReport) -> None:
    for name in report.kept:
        _write_line(f"kept, newer in TO: {name.folder!r} {name.filename!r}")
    for problem in report.failed:
        sys.stderr.write(f"not copied: {problem.name.folder!r} {problem.name.filename!r}: {problem.reason}\n")
    if (unlisted := report.failed_count - len(report.failed)) > 0:
        sys.stderr.write(f"not copied: {unlisted} more files\n")
    _write_line(f"{report.seen} files: {_describe(report)}")


def _describe(report: CopyReport) -> str:
    counts = [f"{report.imported} copied with {report.imported_bytes} bytes", f"{report.unchanged} were there"]
    counts.append(f"{report.kept_count} newer in TO")
    if report.vanished:
        counts.append(f"{report.vanished} deleted in FROM meanwhile")
    counts.append(f"{report.failed_count} not copied")
    return ", ".join(counts)


def _write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
