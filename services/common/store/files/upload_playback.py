"""Uploads of the files store that are played before they are complete: the row of the upload, then that part of its file."""

from sqlalchemy import Connection, bindparam, select

from services.common.store.errors import CorruptFile
from services.common.store.files import schema
from services.common.store.files.clock import read_clock
from services.common.store.files.files_database import FilesDatabase
from services.common.store.files.rows import decode_media_info
from services.common.store.limits import BLOCK_SIZE
from services.common.store.play_addresses import PlayAddress
from services.common.store.upload_playback import GrowingUpload, PlayedFile

uploads, finished_uploads, media = schema.uploads, schema.finished_uploads, schema.media

# By the id of the upload alone: it keeps that when it gets a name.
_FIND_UPLOAD = select(uploads).where(uploads.c.id == bindparam("of_id"))
_FIND_FINISHED = select(finished_uploads).where(finished_uploads.c.id == bindparam("of_id"))
_FIND_CURRENT = select(media).where(
    media.c.id == bindparam("of_media"), media.c.file_id == bindparam("of_file"), media.c.uploaded_at.is_not(None)
)


class FilesUploadPlayback:
    """An `UploadPlayback` in files."""

    def __init__(self, files: FilesDatabase) -> None:
        self._files = files

    async def find(self, address: PlayAddress) -> GrowingUpload | PlayedFile | None:
        """Read the rows."""
        return await self._files.database.read(lambda connection: _find(connection, address))

    async def read_blocks(self, upload: GrowingUpload, first_block: int, last_block: int) -> list[bytes]:
        """Read that part of the file in a thread."""
        start, count = first_block * BLOCK_SIZE, last_block - first_block + 1
        data = await self._files.threads.run(self._files.folder.read_range, upload.file_id, start, count * BLOCK_SIZE)
        return [data[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE] for number in range(count)]

    async def read_tail(self, upload: GrowingUpload) -> bytes | None:
        """Read the end of what is there."""
        if not (length := upload.tail_length):
            return b""
        try:
            return await self._files.threads.run(
                self._files.folder.read_range, upload.file_id, upload.offset - length, length
            )
        except CorruptFile:
            return None


def _find(connection: Connection, address: PlayAddress) -> GrowingUpload | PlayedFile | None:
    of_id = {"of_id": address.record_id}
    now = read_clock(connection).now
    if (upload := connection.execute(_FIND_UPLOAD, of_id).mappings().first()) is not None:
        if not address.is_of(upload["secret_digest"]) or upload["expires_at"] <= now:
            return None
        return GrowingUpload(upload["file_id"], upload["offset"], upload["length"])
    finished = connection.execute(_FIND_FINISHED, of_id).mappings().first()
    if finished is None or not address.is_of(finished["secret_digest"]) or finished["until"] <= now:
        return None
    if finished["outcome"] != "stored":
        return None
    current = {"of_media": finished["media_id"], "of_file": finished["file_id"]}
    row = connection.execute(_FIND_CURRENT, current).mappings().first()
    return None if row is None else PlayedFile(decode_media_info(row))
