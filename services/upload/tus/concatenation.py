"""Joins partial uploads into one file (tus 1.0.0, concatenation): read, hash, store as one file, then delete the parts.

Partial uploads have no name and are not visible as files. Where the store cannot join them itself their bytes are read and written,
because a part need not end at a block boundary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.auth.identity import Identity, subject_of
from services.common.errors import BadRequest, Conflict, GridcastError
from services.common.media import MediaName
from services.common.store.errors import CorruptFile
from services.common.store.upload_store import (
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    UploadHandle,
    UploadStore,
)
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor
from services.common.uploads.policy import UploadPolicy
from services.upload.progress import Progress
from services.upload.tus.ownership import is_visible
from services.upload.writer.upload_writer import UploadWriter

_log = logging.getLogger("gridcast.upload")


@dataclass(frozen=True, slots=True)
class ConcatTarget:
    """The file that the parts become.

    `client` is the key of who asks for it, and `identity` whose parts it may name. `ttl` in seconds and `metadata` are those of the
    final upload. `metadata_json` is the metadata of the file, which the final upload states as well: what the parts say of
    themselves is not the file's.
    """

    name: MediaName
    content_type: str
    ttl: float
    metadata: dict[str, str]
    metadata_json: str
    client: str
    identity: Identity | None = None


class Concatenator:
    """Joins partial uploads of one store."""

    def __init__(
        self, store: UploadStore, policy: UploadPolicy, disk_space: DiskSpaceMonitor, cleanup: CleanupRunner
    ) -> None:
        self._store = store
        self._policy = policy
        self._disk_space = disk_space
        self._cleanup = cleanup

    async def concatenate(
        self, part_ids: tuple[str, ...], target: ConcatTarget, progress: Progress
    ) -> tuple[str, OutboxEvent]:
        """Store the parts as one file. Returns the id of the final upload and the event to publish.

        Raises BadRequest for an id that is not a partial upload, Conflict for one that is not complete.
        """
        parts: list[tuple[UploadHandle, InProgressUpload]] = []
        writer: UploadWriter | None = None
        try:
            for part_id in part_ids:
                parts.append(await self._acquire_part(part_id, target.identity))  # noqa: PERF401  # those acquired are released on an error
            length = sum(state.offset for _, state in parts)
            self._policy.check_length(length)
            self._disk_space.reserve(length)
            writer = UploadWriter(
                self._store, self._policy.max_size, client=target.client, owner=subject_of(target.identity)
            )
            # Parts of the same owner have reserved the same bytes, and end after the commit.
            owner = subject_of(target.identity)
            reservation = sum(state.offset for _, state in parts if state.owner != owner)
            new_upload = NewUpload(length, target.ttl, target.metadata, reservation=reservation)
            upload = await writer.create(target.name, new_upload)
            await self._join_parts(parts, writer, progress)
            event = await writer.commit(target.name, target.content_type, metadata_json=target.metadata_json)
        except BaseException as error:
            progress.set_state("failed")
            if writer is not None:
                await self._cleanup.run_after(error, writer.abort())
            for part, _ in parts:
                await self._cleanup.run_after(error, self._release_part(part))
            raise
        progress.set_state("stored")
        for part, _ in parts:
            await self._delete_part(part)
        return upload.upload_id, event

    async def _acquire_part(self, upload_id: str, identity: Identity | None) -> tuple[UploadHandle, InProgressUpload]:
        # Checked before it is acquired: a request that is refused must not interrupt another writer.
        _require_complete_part(upload_id, await self._store.get_info(upload_id), identity)
        acquired = await self._store.acquire(upload_id)
        if not isinstance(acquired, tuple):
            raise BadRequest(f"{upload_id} is not a partial upload")
        try:
            _require_complete_part(upload_id, acquired[1], identity)  # the first state need not have been durable
        except GridcastError as error:
            await self._cleanup.run_after(error, self._release_part(acquired[0]))
            raise
        return acquired

    async def _join_parts(
        self, parts: Sequence[tuple[UploadHandle, InProgressUpload]], writer: UploadWriter, progress: Progress
    ) -> None:
        lengths = [(part, state.offset) for part, state in parts]
        try:
            joined = await writer.join_parts(lengths, progress.set_received)
        except CorruptFile as error:
            raise Conflict("a partial upload is gone") from error
        for part, state in () if joined else parts:
            await self._copy_part(part, state, writer, progress)

    async def _copy_part(
        self, part: UploadHandle, state: InProgressUpload, writer: UploadWriter, progress: Progress
    ) -> None:
        try:
            async for block in self._store.iter_blocks(part, state.offset // self._store.block_size):
                await writer.write(block)
                progress.set_received(writer.bytes_received)
        except CorruptFile as error:
            raise Conflict(f"the partial upload {part.upload_id} is gone") from error
        await writer.write(state.tail)

    async def _release_part(self, part: UploadHandle) -> None:
        try:
            await self._store.release_lease(part)
        except GridcastError as error:
            _log.warning("partial upload stays locked until its lease expires: %s", error)

    async def _delete_part(self, part: UploadHandle) -> None:
        try:
            await self._store.abort(part)
        except GridcastError as error:
            _log.warning("partial upload left to the garbage collector: %s", error)


def _require_complete_part(
    upload_id: str, state: InProgressUpload | FinishedUpload | None, identity: Identity | None
) -> None:
    """The part of another owner is refused as one that does not exist: it would be read, and then deleted."""
    if not isinstance(state, InProgressUpload) or state.name is not None or not is_visible(state, identity):
        raise BadRequest(f"{upload_id} is not a partial upload")
    if state.offset != state.length:
        raise Conflict(f"the partial upload {upload_id} is not complete")
