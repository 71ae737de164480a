"""The flow that puts the parts of a file together (tus, concatenation): read, hash, store as one file, give the parts up.

The parts are uploads without a name that nobody else sees. Their blocks are copied, because a part need not end at a block's edge.
"""

import logging

from services.common.errors import BadRequest, Conflict, GridcastError
from services.common.media import MediaName
from services.common.store.port import Announcement, Ended, Open, Plan, Upload, UploadStore
from services.common.store.reading import BrokenFile
from services.upload.cleanup import cleaned
from services.upload.limits import Limits
from services.upload.progress import NoProgress
from services.upload.receive import Receiver

_log = logging.getLogger("gridcast.upload")


async def concatenate(
    store: UploadStore,
    limits: Limits,
    parts: tuple[str, ...],
    target: tuple[MediaName, str, Plan],
    progress: NoProgress,
) -> tuple[str, Announcement]:
    """Store the parts as one file. Returns the address of the upload that did it. Raises BadRequest for what is no part."""
    name, kind, plan = target
    taken: list[tuple[Upload, Open]] = []
    receiver: Receiver | None = None
    try:
        for part in parts:
            taken += [await _take(store, part)]
        length = sum(state.offset for _, state in taken)
        limits.check_length(length)
        receiver = Receiver(store, limits.max_length)
        upload = await receiver.begin(name, Plan(length, plan.seconds, plan.facts))
        for held, state in taken:
            await _copy(store, held, state, receiver, progress)
        announcement = await receiver.finish(name, kind)
    except BaseException as error:
        progress.state("failed")
        if receiver is not None:
            await cleaned(error, receiver.discard())
        for held, state in taken:
            await cleaned(error, _release(store, held, state))
        raise
    progress.state("stored")
    for held, _ in taken:
        await _drop(store, held)
    return upload.address, announcement


async def _take(store: UploadStore, address: str) -> tuple[Upload, Open]:
    _check(address, await store.peek(address))  # a request that is refused takes nothing away from whoever writes
    found = await store.take(address)
    if not isinstance(found, tuple):
        raise BadRequest(f"{address} is not a partial upload")
    _check(address, found[1])  # what was seen first need not have been durable
    return found


def _check(address: str, found: Open | Ended | None) -> None:
    if not isinstance(found, Open) or found.name is not None:
        raise BadRequest(f"{address} is not a partial upload")
    if found.offset != found.length:
        raise Conflict(f"the partial upload {address} is not complete")


async def _copy(store: UploadStore, upload: Upload, state: Open, receiver: Receiver, progress: NoProgress) -> None:
    try:
        async for block in store.read_back(upload, state.offset // store.block_size):
            await receiver.write(block)
            progress.received(receiver.received)
    except BrokenFile as error:
        raise Conflict(f"the partial upload {upload.address} is gone") from error
    await receiver.write(state.tail)


async def _release(store: UploadStore, upload: Upload, state: Open) -> None:
    try:
        await store.move(upload, state.offset, state.tail, state.length, writing=False, moved=False)
    except GridcastError as error:
        _log.warning("a part stays held until its lease ends: %s", error)


async def _drop(store: UploadStore, upload: Upload) -> None:
    try:
        await store.abort(upload)
    except GridcastError as error:
        _log.warning("a part is left to the janitor: %s", error)
