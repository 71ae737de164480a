"""The flow that puts the parts of a file together (tus, concatenation): read, hash, store as one file, give the parts up.

The parts are uploads without a name that nobody else sees. Their blocks are copied, because a part need not end at a block's edge.
"""

import logging

from services.common.errors import BadRequest, Conflict, GridcastError
from services.common.media import MediaName
from services.common.store.media_reader import CorruptFile
from services.common.store.upload_store import (
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    OutboxEvent,
    UploadHandle,
    UploadStore,
)
from services.upload.limits import UploadLimiter
from services.upload.progress import NullProgress
from services.upload.writer.cleanup import cleanup_after
from services.upload.writer.upload_writer import UploadWriter

_log = logging.getLogger("gridcast.upload")


async def concatenate(
    store: UploadStore,
    limiter: UploadLimiter,
    part_ids: tuple[str, ...],
    target: tuple[MediaName, str, NewUpload],
    progress: NullProgress,
) -> tuple[str, OutboxEvent]:
    """Store the parts as one file. Returns the address of the upload that did it. Raises BadRequest for what is no part."""
    name, kind, plan = target
    taken: list[tuple[UploadHandle, InProgressUpload]] = []
    receiver: UploadWriter | None = None
    try:
        for part in part_ids:
            taken += [await _acquire_part(store, part)]
        length = sum(state.offset for _, state in taken)
        limiter.check_size(length)
        receiver = UploadWriter(store, limiter.max_size)
        upload = await receiver.create(name, NewUpload(length, plan.ttl, plan.metadata))
        for held, state in taken:
            await _copy_part(store, held, state, receiver, progress)
        announcement = await receiver.commit(name, kind)
    except BaseException as error:
        progress.set_state("failed")
        if receiver is not None:
            await cleanup_after(error, receiver.abort())
        for held, state in taken:
            await cleanup_after(error, _release_part(store, held, state))
        raise
    progress.set_state("stored")
    for held, _ in taken:
        await _delete_part(store, held)
    return upload.upload_id, announcement


async def _acquire_part(store: UploadStore, upload_id: str) -> tuple[UploadHandle, InProgressUpload]:
    _require_complete_part(
        upload_id, await store.get_info(upload_id)
    )  # a request that is refused takes nothing away from whoever writes
    found = await store.acquire(upload_id)
    if not isinstance(found, tuple):
        raise BadRequest(f"{upload_id} is not a partial upload")
    _require_complete_part(upload_id, found[1])  # what was seen first need not have been durable
    return found


def _require_complete_part(upload_id: str, state: InProgressUpload | FinishedUpload | None) -> None:
    if not isinstance(state, InProgressUpload) or state.name is not None:
        raise BadRequest(f"{upload_id} is not a partial upload")
    if state.offset != state.length:
        raise Conflict(f"the partial upload {upload_id} is not complete")


async def _copy_part(
    store: UploadStore, upload: UploadHandle, state: InProgressUpload, writer: UploadWriter, progress: NullProgress
) -> None:
    try:
        async for block in store.iter_blocks(upload, state.offset // store.block_size):
            await writer.write(block)
            progress.set_received(writer.bytes_received)
    except CorruptFile as error:
        raise Conflict(f"the partial upload {upload.upload_id} is gone") from error
    await writer.write(state.tail)


async def _release_part(store: UploadStore, upload: UploadHandle, state: InProgressUpload) -> None:
    try:
        await store.set_offset(upload, state.offset, state.tail, state.length, keep_lease=False, extend_expiry=False)
    except GridcastError as error:
        _log.warning("partial upload stays locked until its lease expires: %s", error)


async def _delete_part(store: UploadStore, upload: UploadHandle) -> None:
    try:
        await store.abort(upload)
    except GridcastError as error:
        _log.warning("partial upload left to the garbage collector: %s", error)
