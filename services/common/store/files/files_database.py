"""The database and the folder of one files store, opened together, and the check that they belong together."""

from pathlib import Path

from sqlalchemy import Connection, exists, select

from services.common.errors import ServiceUnavailable
from services.common.store.files import migration, schema
from services.common.store.files.database import Database, open_database
from services.common.store.files.exclusive_files import DiskThreads
from services.common.store.files.media_folder import MediaFolder


class FilesDatabase:
    """What all sides of the store share."""

    def __init__(self, database: Database, folder: MediaFolder) -> None:
        self.database = database
        self.folder = folder
        self.threads = DiskThreads()
        self._expected_revision = migration.newest_revision()

    async def prepare(self) -> None:
        """Create folders and tables, or migrate the tables. Raises RuntimeError where the folder is that of another database."""
        await self.threads.run(self.folder.prepare)
        await migration.migrate(self.database)
        store_id, in_use = await self.database.read(_read_store)
        found = await self.threads.run(self.folder.read_store_id)
        if found is None:
            if in_use or not await self.threads.run(self.folder.is_empty):
                raise RuntimeError(
                    "GRIDCAST_FILES_DIR has no store_id: it is not the folder of this database, or not mounted"
                )
            await self.threads.run(self.folder.write_store_id, store_id)
        elif found != store_id:
            raise RuntimeError(
                "GRIDCAST_FILES_DIR belongs to another database: store_id is not that of the table store"
            )

    async def check(self) -> None:
        """Check that both respond and belong together. Raises ServiceUnavailable."""
        await migration.check_schema(self.database, self._expected_revision)
        store_id, _ = await self.database.read(_read_store)
        if await self.threads.run(self.folder.read_store_id) != store_id:
            raise ServiceUnavailable("the folder of the files is missing or belongs to another database")

    async def aclose(self) -> None:
        """Wait for what is in progress and close everything."""
        try:
            await self.threads.aclose()  # its calls read the database
        finally:
            await self.database.aclose()


def open_files_database(database_url: str, files_dir: str) -> FilesDatabase:
    """Open the store of the settings; it connects with the first call. Must be called in a running event loop."""
    return FilesDatabase(open_database(database_url, files_dir), MediaFolder(Path(files_dir).absolute()))


def _read_store(connection: Connection) -> tuple[str, bool]:
    """The id of the store, and whether anything is stored in it."""
    in_use = select(exists().where(schema.media.c.id.is_not(None)))
    store_id: str = connection.execute(select(schema.store.c.store_id)).scalar_one()
    return store_id, bool(connection.execute(in_use).scalar())
