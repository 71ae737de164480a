"""The flow of a resumable upload: begin, look, receive some bytes, end. It knows no HTTP and no driver.

What a client may rely on: the offset it is shown is durable, and the whole length is shown only when the file is stored.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from services.common.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    GridcastError,
    NotFound,
    ServiceUnavailable,
)
from services.common.media import MediaName
from services.common.store.upload_store import FinishedUpload, InProgressUpload, NewUpload, UploadHandle, UploadStore
from services.common.telemetry import metrics
from services.upload.body import UploadBody
from services.upload.content_types import resolve_content_type
from services.upload.digests import DigestVerifier
from services.upload.limits import UploadLimiter
from services.upload.progress import NullProgress, StartProgress
from services.upload.tus.patch import PatchRequest, PatchResult, lost_upload_error
from services.upload.writer.cleanup import cleanup_after, is_store_unavailable, run_shielded
from services.upload.writer.locks import UploadLocks
from services.upload.writer.upload_writer import UploadWriter

CHECKPOINT_INTERVAL_SECONDS = 1.0
"""Bytes of a slow client are made durable after so long, though their batch is not full."""
DURABLE_WAIT_SECONDS = 3.5
"""How long a look waits for bytes that were read and are not durable yet."""

_log = logging.getLogger("gridcast.upload")


class ResumableUploads:
    """Resumable uploads of one process."""

    def __init__(self, store: UploadStore, limiter: UploadLimiter, start_progress: StartProgress, ttl: float) -> None:
        self._store = store
        self._limiter = limiter
        self._start_progress = start_progress
        self._ttl = ttl
        self._locks = UploadLocks()

    async def create(
        self,
        name: MediaName | None,
        length: int | None,
        metadata: dict[str, str],
        body: UploadBody,
        request: PatchRequest,
    ) -> tuple[str, PatchResult]:
        """Begin an upload and take what comes with it. Returns its address. Without a name it is a part of another."""
        self._limiter.check_size(length)
        receiver = UploadWriter(self._store, self._limiter.max_size if length is None else length, body.abort)
        upload = await receiver.create(name, NewUpload(length, self._ttl, metadata))
        receiver.unpublished_offset = None if name is None else length
        try:
            state = await self._get_in_progress(upload.upload_id)
            async with self._locks.exclusive(upload.upload_id, body):
                received = await self._receive_body(receiver, upload, state, body, request)
        except BaseException as error:
            # Its address was told to nobody: it can never be gone on with.
            filename = "" if name is None else name.filename
            self._start_progress(metadata.get("sid"), filename, None, upload.upload_id).set_state("failed")
            await cleanup_after(error, receiver.abort())
            if isinstance(error, Gone):  # lost at the end of one request that was both creation and upload
                raise Conflict(error.detail, error.headers) from error
            raise
        return upload.upload_id, received

    async def _get_in_progress(self, upload_id: str) -> InProgressUpload:
        state = await self._store.get_info(upload_id)
        if not isinstance(state, InProgressUpload):
            raise ServiceUnavailable("the upload no longer exists")
        return state

    async def get_durable_info(self, upload_id: str) -> InProgressUpload | FinishedUpload:
        """What is durable. Waits a moment while somebody holds more than that."""
        deadline = time.monotonic() + DURABLE_WAIT_SECONDS
        found = await self._store.get_info(upload_id)
        while isinstance(found, InProgressUpload) and found.write_in_progress and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            found = await self._store.get_info(upload_id)
        return self._require_found(upload_id, await self._store.get_durable_info(upload_id))

    async def patch(self, upload_id: str, body: UploadBody, request: PatchRequest) -> PatchResult:
        """Take bytes from `patch.offset` on. Whoever writes this upload elsewhere is cut off."""
        found = await self._store.get_info(upload_id)
        if found is not None and found.metadata.get("concat", "").startswith("final"):
            raise Forbidden("a final upload cannot be appended to")
        found = self._require_found(upload_id, found)
        if isinstance(found, FinishedUpload) or found.offset != request.offset:
            # This will be the answer: what was seen need not be durable, and a commit that another has just made may be undone.
            found = self._require_found(upload_id, await self._store.get_durable_info(upload_id))
        if isinstance(found, FinishedUpload):
            return request.replay_result(found)
        request.validate(found, self._limiter.max_size)
        self._limiter.check_size(request.content_length)
        async with self._locks.exclusive(upload_id, body):
            began = time.monotonic()
            taken = await self._store.acquire(upload_id)
            if not isinstance(taken, tuple):
                return request.replay_result(self._require_found(upload_id, taken))
            upload, state = taken
            metrics.UPLOAD_TAKEOVERS.inc(found.write_in_progress)
            length = state.length if request.length is None else request.length
            receiver = UploadWriter(self._store, self._limiter.max_size if length is None else length, body.abort)
            hashed = self._locks.pop_hash_state(upload_id, state.offset // self._store.block_size)
            receiver.resume(upload, state, hashed, began)
            receiver.length = length
            receiver.unpublished_offset = None if state.name is None else length
            try:
                request.validate(state, self._limiter.max_size)
            except GridcastError:
                await run_shielded(self._checkpoint_and_suspend(receiver))
                raise
            return await self._receive_body(receiver, upload, state, body, request)

    async def terminate(self, upload_id: str) -> None:
        """Take an unfinished upload back."""
        await self._locks.preempt(upload_id)
        taken = await self._store.acquire(upload_id)
        if isinstance(
            self._require_found(upload_id, taken if taken is None or isinstance(taken, FinishedUpload) else taken[1]),
            FinishedUpload,
        ):
            raise Gone("this upload has ended")
        if isinstance(taken, tuple):
            # Another process may be in the middle of an insert.
            await self._store.abort(taken[0], second_purge=True)

    def _require_found(
        self, upload_id: str, state: InProgressUpload | FinishedUpload | None
    ) -> InProgressUpload | FinishedUpload:
        """`found`. Raises Gone for what has expired or was lost, NotFound for what never was."""
        if state is None:
            age = self._store.upload_age(upload_id)
            raise Gone("this upload has expired") if age and age > self._ttl else NotFound("upload not found")
        if isinstance(state, FinishedUpload) and state.outcome == "lost":
            raise lost_upload_error(state)
        return state

    async def _receive_body(
        self,
        writer: UploadWriter,
        upload: UploadHandle,
        state: InProgressUpload,
        body: UploadBody,
        request: PatchRequest,
    ) -> PatchResult:
        filename = state.name.filename if state.name else ""
        silent = body.at_eof and writer.bytes_received != writer.length
        progress = (
            NullProgress()
            if silent
            else self._start_progress(state.metadata.get("sid"), filename, writer.length, upload.upload_id)
        )
        progress.set_received(writer.bytes_received, writer.length)
        before = writer.hash_state
        try:
            await self._write_body(writer, body, request.verifiers, progress)
            if state.name is not None and writer.bytes_received == writer.length:
                received = await self._commit(writer, state.name, state, progress)
            else:
                expires = await writer.checkpoint(keep_lease=False)
                received = PatchResult(writer.bytes_received, expires)
        except BaseException as error:
            if isinstance(error, Gone):
                progress.set_state("failed")
            progress.close()
            await cleanup_after(error, self._handle_interruption(writer, state, request, error, before))
            raise
        await writer.suspend()
        if received.event is None:
            self._locks.put_hash_state(upload.upload_id, writer.hash_state)
        if received.event is not None:
            progress.set_state("stored")
        progress.close()
        return received

    async def _write_body(
        self, writer: UploadWriter, body: UploadBody, verifiers: Sequence[DigestVerifier], progress: NullProgress
    ) -> None:
        """To the end of the body. Bytes with a checksum become durable when it was right, the others as they come."""
        writer.checkpoint_batches = not verifiers
        held = True
        while (
            piece := await body.read(CHECKPOINT_INTERVAL_SECONDS if writer.checkpoint_batches else None)
        ) is not None:
            if piece:
                for check in verifiers:
                    check.update(piece)
                await writer.write(piece)
                progress.set_received(writer.bytes_received, writer.length)
                held = True
            old = time.monotonic() - writer.checkpointed_at >= CHECKPOINT_INTERVAL_SECONDS
            if writer.checkpoint_batches and ((writer.uncheckpointed_bytes and old) or (held and not piece)):
                await writer.checkpoint(keep_lease=bool(piece))
                held = bool(piece)
        for check in verifiers:
            check.verify()

    async def _commit(
        self, writer: UploadWriter, name: MediaName, state: InProgressUpload, progress: NullProgress
    ) -> PatchResult:
        kind = resolve_content_type(state.metadata.get("filetype", ""), name.filename)
        try:
            stored = await writer.commit(name, kind, on_rehash=lambda: progress.set_state("verifying"))
        except AlreadyExists as error:
            await run_shielded(writer.abort(name_taken=True))
            raise Gone(error.detail) from error
        except Gone:  # its bytes are damaged: whoever asks again would be told so for ever
            await run_shielded(writer.abort())
            raise
        progress.set_received(writer.bytes_received)
        return PatchResult(writer.bytes_received, None, stored, stored.info.sha256)

    async def _handle_interruption(
        self,
        writer: UploadWriter,
        state: InProgressUpload,
        request: PatchRequest,
        error: BaseException,
        hash_state_before: tuple[int, object],
    ) -> None:
        """Keep what may be kept. Never raises: what is not saved here is asked for again."""
        with suppress(GridcastError):
            if isinstance(error, (Gone, Conflict)) or is_store_unavailable(error):
                await writer.suspend()
            elif request.verifiers:
                await writer.truncate(hash_state_before[0])
                upload = writer.upload
                if upload is not None:
                    await self._store.set_offset(
                        upload, state.offset, state.tail, state.length, keep_lease=False, extend_expiry=False
                    )
            else:
                await self._checkpoint_and_suspend(writer)

    async def _checkpoint_and_suspend(self, writer: UploadWriter) -> None:
        """Save and leave."""
        try:
            await writer.checkpoint(keep_lease=False)
        finally:
            await writer.suspend()
        if writer.upload is not None:
            self._locks.put_hash_state(writer.upload.upload_id, writer.hash_state)
