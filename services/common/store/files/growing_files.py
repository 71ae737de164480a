"""Files that are read while they grow: the header is written into the space that a writer has left at the beginning."""

import functools

from sqlalchemy import Connection, select, update

from services.common.media import MediaInfo
from services.common.store.errors import CorruptFile
from services.common.store.files import schema
from services.common.store.files.exclusive_files import ExclusiveFiles
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.rows import upload_key
from services.common.store.growing_files import GROWING_ATTEMPTS, MAX_DURABLE_READ_BYTES, DurableBytes, check_header
from services.common.store.upload_ids import UploadId, parse_upload_id
from services.common.store.upload_store import InProgressUpload, UploadHandle, UploadStateReader

uploads, media = schema.uploads, schema.media


class FilesGrowingFiles:
    """A `GrowingFiles` in files. `states` reads what is durable."""

    def __init__(self, files: FilesDatabase, states: UploadStateReader) -> None:
        self._files = files
        self._states = states
        self._exclusive = ExclusiveFiles(files.database, files.folder, files.threads)

    async def place_header(self, upload: UploadHandle, header: bytes) -> None:
        """Write it while the file is locked and the fencing token is checked, and sync the file."""
        check_header(header)
        key, token = upload_key(upload), upload.fencing_token
        await self._exclusive.write(key, token, 0, [header])
        await self._exclusive.make_durable(key, token, len(header))

    async def read_durable(self, upload_id: str, start: int, count: int) -> DurableBytes | None:
        """Read the durable state, then that part of the file."""
        if (ids := parse_upload_id(upload_id)) is None:
            return None
        for _ in range(GROWING_ATTEMPTS):
            state = await self._states.get_durable_info(upload_id)
            if not isinstance(state, InProgressUpload):
                return None
            end = min(start + min(count, MAX_DURABLE_READ_BYTES), state.offset)
            if start >= end:
                return DurableBytes(b"", state.offset, state.length)
            file_id = await self._files.database.read(functools.partial(_find_file_id, ids))
            if file_id is None:
                continue
            try:
                data = await self._files.threads.run(self._files.folder.read_range, file_id, start, end - start)
            except CorruptFile:
                continue
            return DurableBytes(data, state.offset, state.length)
        raise CorruptFile(f"upload {upload_id}: durable bytes are missing")

    async def set_sha256(self, info: MediaInfo, sha256: str) -> bool:
        """Set the column where it is null."""
        statement = (
            update(media)
            .where(media.c.id == info.id, media.c.file_id == info.file_id, media.c.sha256.is_(None))
            .values(sha256=sha256)
        )
        count = await self._files.database.write(lambda transaction: transaction.connection.execute(statement).rowcount)
        return count == 1


def _find_file_id(ids: UploadId, connection: Connection) -> str | None:
    statement = select(uploads.c.file_id).where(uploads.c.id == ids.record_id, uploads.c.media_id == ids.media_id)
    return connection.execute(statement).scalar_one_or_none()
