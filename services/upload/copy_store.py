"""Copies all files of one store into another, with everything that is stored about them. Begun again, it continues.

python -m services.upload.copy_store FROM TO

FROM and TO are addresses, or @PATH of a file that holds one: the arguments of a process are visible to all users of its machine.

    mongodb://HOST:PORT              MongoDB, in any form of its connection strings; --from-database and --to-database name the database
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from services.common.errors import GridcastError
from services.common.settings import MongoSettings
from services.common.store.factory import MediaStore, open_store
from services.common.store.store_copy import CopyReport, StoreCopier
from services.common.store.timings import StoreTimings

PROGRESS_SECONDS = 5.0
_DEFAULT_DATABASE = "gridcast"


class _Parser(argparse.ArgumentParser):
    """Its own messages would quote the arguments, which hold passwords."""

    def error(self, message: str) -> NoReturn:
        del message
        self.exit(2, f"{self.format_usage()}copy_store: two addresses are needed, and perhaps options\n")


def main(arguments: Sequence[str]) -> int:
    """Copy as the arguments of the command say; return the exit status: 1 where files were not copied, 2 for wrong arguments."""
    parser = _Parser(prog="python -m services.upload.copy_store", description=__doc__, add_help=True)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="FROM", help="address of the store that is read")
    parser.add_argument("target", metavar="TO", help="address of the store that is written")
    for side in ("from", "to"):
        parser.add_argument(f"--{side}-database", default=_DEFAULT_DATABASE, metavar="NAME", help="database in MongoDB")
    options = parser.parse_args(arguments)
    try:
        source = parse_address(options.source, options.from_database)
        target = parse_address(options.target, options.to_database)
    except ValueError as error:
        sys.stderr.write(f"copy_store: {error}\n")
        return 2
    try:
        return asyncio.run(_copy(source, target))
    except KeyboardInterrupt:
        sys.stderr.write("copy_store: interrupted; begin again to continue\n")
        return 130


def parse_address(address: str, database: str) -> MongoSettings:
    """Return the settings that open that store. Raises ValueError, whose text contains no part of the address."""
    if address.startswith("@"):
        try:
            address = Path(address[1:]).read_text("utf-8").strip()
        except (OSError, ValueError):
            raise ValueError("an address @PATH names a file that cannot be read") from None
    if not address.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("an address begins with mongodb:// or mongodb+srv://")
    return MongoSettings(mongodb_uri=address, mongodb_database=database)


async def _copy(source_settings: MongoSettings, target_settings: MongoSettings) -> int:
    async with _opened(source_settings) as source, _opened(target_settings) as target:
        copier = StoreCopier(source.reader, target.importer)
        reporter: asyncio.Task[None] | None = None
        try:
            await source.reader.check_health()
            await target.uploads.ensure_schema()
            reporter = asyncio.create_task(_report_progress(copier.report))
            await copier.copy_all()
        except (GridcastError, RuntimeError) as error:
            sys.stderr.write(f"copy_store: stopped: {error}; begin again to continue\n")
            return _conclude(copier.report) or 1
        finally:
            if reporter is not None:
                reporter.cancel()
                with suppress(asyncio.CancelledError):
                    await reporter
        return _conclude(copier.report)
