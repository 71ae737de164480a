"""Imports files: an upload with the ids of the incoming file, written as all others are, and one transaction at its end.

It is not aborted where its import fails: the next one takes it over, and a deletion of its file could meet that of the next one.
"""

import os
import time
from collections.abc import AsyncIterator

from services.common.errors import BadRequest, Conflict
from services.common.media import MediaInfo, MediaName, Poster
from services.common.store.errors import CorruptFile
from services.common.store.file_importer import (
    CHANGED_MEANWHILE,
    IMPORT_BATCH_BLOCKS,
    TO_BE_DELETED,
    ImportOutcome,
    compare_versions,
)
from services.common.store.files import file_changes, import_changes
from services.common.store.files.exclusive_files import ExclusiveFiles
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.ids import is_id
from services.common.store.files.media_folder import MediaFolder
from services.common.store.files.media_reader import FilesMediaReader
from services.common.store.files.rows import make_handle, upload_key
from services.common.store.files.upload_store import FilesUploadStore
from services.common.store.limits import BLOCK_SIZE, MIN_ORPHAN_AGE
from services.common.store.timings import StoreTimings
from services.common.store.upload_ids import digest_secret, make_secret
from services.common.store.upload_store import UploadHandle

_ORPHAN_MARGIN_SECONDS = 3600.0
"""How much younger than an orphan a file without a row must be to be written over: clocks differ, and a search takes time."""


class FilesFileImporter:
    """A `FileImporter` of files."""

    block_size = BLOCK_SIZE

    def __init__(self, files: FilesDatabase, timings: StoreTimings | None = None) -> None:
        self._files = files
        self._timings = timings or StoreTimings()
        self._reader = FilesMediaReader(files)
        self._uploads = FilesUploadStore(files, self._timings)
        self._exclusive = ExclusiveFiles(files.database, files.folder, files.threads)

    async def import_file(self, info: MediaInfo, blocks: AsyncIterator[bytes]) -> ImportOutcome:
        """Compare with what is current, write the file of an upload, then make it current.

        What a read returns of `media` is durable: readers see a commit after it was synced.
        """
        if not is_id(info.id) or not is_id(info.file_id):
            raise BadRequest("an id of the file has not the form of this store's")
        current = await self._reader.find(MediaName(info.folder, info.filename))
        if (outcome := compare_versions(current, info)) is not None:
            return outcome
        upload = await self._begin(info)
        await self._write(upload, info.length, blocks)
        key, token = upload_key(upload), upload.fencing_token
        await self._exclusive.finish(key, token, info.length)
        await self._files.database.write(
            lambda transaction: import_changes.commit_import(transaction, key, token, info, self._timings)
        )
        return "imported"

    async def import_poster(self, info: MediaInfo, poster: Poster) -> None:
        """Write the row of the poster."""
        if not is_id(info.file_id):
            raise BadRequest("an id of the file has not the form of this store's")
        await self._files.database.write(
            lambda transaction: file_changes.write_poster(transaction, info.file_id, poster), durable=False
        )

    async def _begin(self, info: MediaInfo) -> UploadHandle:
        """Take the upload of an interrupted import over, or add one."""
        secret = make_secret()
        is_orphan = await self._files.threads.run(_may_be_orphan, self._files.folder, info.file_id)
        key, is_left = await self._files.database.write(
            lambda transaction: import_changes.begin_import(
                transaction, info, digest_secret(secret), is_orphan=is_orphan
            ),
            durable=False,  # the commit makes it so; a power loss before leaves a file that the next import writes over
        )
        name = MediaName(info.folder, info.filename)
        upload = make_handle(key, name, 1, secret)
        if is_left:
            acquired = await self._uploads.acquire(upload.upload_id)
            if not isinstance(acquired, tuple):
                raise Conflict(TO_BE_DELETED)
            upload = acquired[0]
            if upload.store_key != info.file_id:  # a process that was paused holds the file: this is a copy of it
                raise Conflict(CHANGED_MEANWHILE)
        await self._uploads.truncate_blocks(upload, 0)
        return upload

    async def _write(self, upload: UploadHandle, length: int, blocks: AsyncIterator[bytes]) -> None:
        written = first_block = 0
        batch: list[bytes] = []
        async for block in blocks:
            written += len(block)
            batch.append(block)
            if len(batch) == IMPORT_BATCH_BLOCKS:
                await self._uploads.write_blocks(upload, first_block, batch)
                first_block += len(batch)
                batch = []
        if batch:
            await self._uploads.write_blocks(upload, first_block, batch)
        if written != length:
            raise CorruptFile(f"file {upload.store_key}: {written} bytes were read of {length}")


def _may_be_orphan(folder: MediaFolder, file_id: str) -> bool:
    """Return whether a file is there that the search for orphans takes for one, unless a row has it."""
    try:
        descriptor = folder.open_for_reading(file_id)
    except CorruptFile:
        return False
    try:
        changed_at = os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    return changed_at < time.time() - MIN_ORPHAN_AGE.total_seconds() + _ORPHAN_MARGIN_SECONDS
