"""Resumable uploads: create, read the offset, receive bytes, terminate.

A client may rely on this: the offset that it reads is durable, and it equals the length only when the file is stored.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from services.common.auth.authorization import missing_right
from services.common.auth.identity import Identity
from services.common.auth.play_seals import describe_player
from services.common.containers.layout import MAX_SCANNED_BLOCKS
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
from services.common.store.errors import CorruptFile
from services.common.store.quotas import QuotaExceeded
from services.common.store.upload_store import (
    FinishedUpload,
    InProgressUpload,
    NewUpload,
    UploadHandle,
    UploadState,
    UploadStore,
)
from services.common.telemetry import metrics
from services.common.uploads.body import UploadBody
from services.common.uploads.cleanup import CleanupRunner, is_store_unavailable, run_shielded
from services.common.uploads.limits import DiskSpaceMonitor
from services.common.uploads.locks import UploadLocks
from services.common.uploads.policy import UploadPolicy
from services.common.webhooks.hook_protocol import StoredHookAnswer
from services.upload.content_types import resolve_content_type
from services.upload.digests import DigestVerifier
from services.upload.playback import PLAYER_KEY, PlaybackReporter
from services.upload.progress import NullProgress, Progress, StartProgress
from services.upload.tus.handle_cache import HandleCache, Held
from services.upload.tus.headers import encode_metadata_of_file, parse_metadata
from services.upload.tus.ownership import is_visible
from services.upload.tus.patch import PatchRequest, PatchResult, lost_upload_error
from services.upload.writer.rehash import ContentStateCache
from services.upload.writer.upload_writer import UploadWriter

CHECKPOINT_INTERVAL_SECONDS = 1.0
"""The bytes of a slow client are made durable after this time, though their batch is not full."""
DURABLE_WAIT_SECONDS = 3.5
"""How long a query of the offset waits for bytes that were received and are not durable yet."""

_log = logging.getLogger("gridcast.upload")


class ResumableUploads:
    """The resumable uploads that one process receives. `ttl` is how many seconds an upload is kept after its last byte."""

    def __init__(
        self,
        store: UploadStore,
        policy: UploadPolicy,
        disk_space: DiskSpaceMonitor,
        start_progress: StartProgress,
        cleanup: CleanupRunner,
        ttl: float,
        playback: PlaybackReporter,
    ) -> None:
        self._store = store
        self._policy = policy
        self._disk_space = disk_space
        self._start_progress = start_progress
        self._cleanup = cleanup
        self._ttl = ttl
        self._playback = playback
        self._locks = UploadLocks()
        self._content_states = ContentStateCache()
        # Younger than a third of the lease, a handle leaves its writer the time to renew before the upload expires.
        self._handles = HandleCache(store.lease_ttl / 3 if ttl >= store.lease_ttl else 0.0)

    async def create(
        self,
        name: MediaName | None,
        length: int | None,
        metadata: dict[str, str],
        owner: str,
        body: UploadBody,
        request: PatchRequest,
    ) -> tuple[str, PatchResult]:
        """Create an upload of the subject `owner` and receive the bytes of the request. Returns its id.

        Without a name it is a partial upload.
        """
        self._policy.check_length(length)
        self._disk_space.reserve(length)
        writer = self._create_writer(length, body, metadata, owner)
        upload = await writer.create(
            name,
            NewUpload(length, self._ttl, metadata),
            unpublished_offset=None if name is None else length,
        )
        try:
            state = await self._get_in_progress(upload.upload_id)
            async with self._locks.exclusive(upload.upload_id, body):
                result = await self._receive_body(writer, upload, state, body, request)
        except BaseException as error:
            # The client has not received the id, so the upload can never be resumed.
            filename = "" if name is None else name.filename
            self._start_progress(metadata.get("sid"), filename, None, upload.upload_id).set_state("failed")
            await self._cleanup.run_after(error, writer.abort())
            if isinstance(
                error, Gone
            ):  # the name was taken meanwhile: a conflict, for a request that creates the upload
                raise Conflict(error.detail, error.headers) from error
            raise
        return upload.upload_id, result

    def _create_writer(
        self, length: int | None, body: UploadBody, metadata: Mapping[str, str], owner: str = ""
    ) -> UploadWriter:
        max_size = StoredHookAnswer.of(metadata).limit(self._policy.max_size) if length is None else length
        return UploadWriter(self._store, max_size, body.abort, body.client, owner)

    async def _get_in_progress(self, upload_id: str) -> InProgressUpload:
        state = await self._store.get_info(upload_id)
        if not isinstance(state, InProgressUpload):
            raise ServiceUnavailable("the upload no longer exists")
        return state

    async def require_visible(self, upload_id: str, identity: Identity | None) -> None:
        """Raise what an unknown id raises where the upload is that of another owner.

        Raises InsufficientScope where its owner may not write into the folder any more.
        """
        if identity is None:
            return
        state = await self._get_info(upload_id)
        if state is not None and not is_visible(state, identity):
            self._require_found(upload_id, None)
        if state is None or state.name is None or StoredHookAnswer.of(state.metadata).moved:
            return  # the upload hook has chosen the folder
        if not identity.rights.may_folder("write", state.name.folder):
            raise missing_right(identity, "write", state.name.folder)

    async def get_durable_info(self, upload_id: str) -> InProgressUpload | FinishedUpload:
        """Return the durable state. Waits a moment while a writer holds more bytes than are durable."""
        deadline = time.monotonic() + DURABLE_WAIT_SECONDS
        state = await self._store.get_info(upload_id)
        while isinstance(state, InProgressUpload) and state.write_in_progress and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            state = await self._store.get_info(upload_id)
        return self._require_found(upload_id, await self._store.get_durable_info(upload_id))

    async def patch(self, upload_id: str, body: UploadBody, request: PatchRequest) -> PatchResult:
        """Receive bytes from `request.offset` on. Any other writer of this upload is stopped."""
        found = await self._get_info(upload_id)
        if not isinstance(found, InProgressUpload) or found.offset != request.offset:
            # This state is answered, so it must be durable: the commit of another process may still be undone by a crash.
            found = await self._store.get_durable_info(upload_id)
        found = self._require_found(upload_id, found)
        if found.metadata.get("concat", "").startswith("final"):
            raise Forbidden("a final upload cannot be appended to")
        if isinstance(found, FinishedUpload):
            return request.replay_result(found)
        max_size = StoredHookAnswer.of(found.metadata).limit(self._policy.max_size)
        request.validate(found, max_size)
        self._policy.check_length(request.content_length)
        self._disk_space.reserve(request.content_length)
        async with self._locks.exclusive(upload_id, body):
            requested_at = time.monotonic()
            held = self._handles.pop(upload_id)
            usable = held is not None and held[1].offset == request.offset and not request.verifiers
            again = await self._renew_lease(held) if held and usable else None
            acquired = again or await self._store.acquire(upload_id)
            if not isinstance(acquired, tuple):
                return request.replay_result(self._require_found(upload_id, acquired))
            upload, state = acquired
            metrics.UPLOAD_TAKEOVERS.inc(found.write_in_progress)
            length = state.length if request.length is None else request.length
            writer = self._create_writer(length, body, state.metadata)
            writer.resume(
                upload,
                state,
                self._content_states.pop(upload_id, state.offset // self._store.block_size),
                requested_at,
                length=length,
                unpublished_offset=None if state.name is None else length,
            )
            try:
                request.validate(state, max_size)
                if length is not None and state.length is None:
                    await self._store.reserve(upload, length)
            except GridcastError:
                await run_shielded(self._suspend_unchanged(writer))
                raise
            return await self._receive_body(writer, upload, state, body, request)

    async def _get_info(self, upload_id: str) -> UploadState:
        """Return the state that the last request of this process has left, else that of the store. It may be outdated."""
        held = self._handles.get(upload_id)
        return await self._store.get_info(upload_id) if held is None else held[1]

    async def _renew_lease(self, held: Held) -> Held | None:
        """Return the handle with its lease, None where another writer has acquired the upload."""
        upload, state = held
        try:
            await self._store.set_offset(upload, state.offset, b"", state.length, keep_lease=True, extend_expiry=False)
        except Conflict:
            return None
        return held

    async def terminate(self, upload_id: str) -> None:
        """Delete an unfinished upload. Raises Gone where it has finished or expired, NotFound."""
        await self._locks.preempt(upload_id)
        self._handles.pop(upload_id)
        acquired = await self._store.acquire(upload_id)
        if not isinstance(acquired, tuple):
            self._require_found(upload_id, acquired)
            raise Gone("this upload has ended")
        # Another process may be in the middle of an insert.
        await self._store.abort(acquired[0], second_purge=True)

    def _require_found(
        self, upload_id: str, state: InProgressUpload | FinishedUpload | None
    ) -> InProgressUpload | FinishedUpload:
        """Return the state.

        Raises Gone where the upload has expired or was lost, or its file is no longer there, NotFound where it never existed.
        """
        if state is None:
            age = self._store.upload_age(upload_id)
            raise Gone("this upload has expired") if age and age > self._ttl else NotFound("upload not found")
        if isinstance(state, FinishedUpload) and state.outcome == "lost":
            raise lost_upload_error(state.name)
        if isinstance(state, FinishedUpload) and state.outcome == "removed":
            raise Gone("the file of this upload was deleted or replaced")
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
        is_empty = body.at_eof and writer.bytes_received != writer.length
        progress: Progress = (
            NullProgress()
            if is_empty
            else self._start_progress(state.metadata.get("sid"), filename, writer.length, upload.upload_id)
        )
        progress.set_received(writer.bytes_received, writer.length)
        blocks_before, _ = writer.content_state
        try:
            if not is_empty and state.name is not None:
                await self._watch_playback(writer, upload, state.metadata, filename)
            await self._write_body(writer, body, request.verifiers, progress)
            if state.name is not None and writer.bytes_received == writer.length:
                result = await self._commit(writer, state.name, state, progress)
            else:
                expires_at = await writer.checkpoint(keep_lease=False)
                result = PatchResult(writer.bytes_received, expires_at)
                if expires_at is not None and result.offset % self._store.block_size == 0:
                    idle = replace(state, offset=result.offset, tail=b"", length=writer.length, expires_at=expires_at)
                    self._handles.put(upload, replace(idle, write_in_progress=False))
        except BaseException as error:
            if isinstance(error, Gone):
                progress.set_state("failed")
            progress.close()
            await self._cleanup.run_after(error, self._handle_interruption(writer, request, error, blocks_before))
            raise
        await writer.suspend()
        if result.event is None:
            self._content_states.put(upload.upload_id, *writer.content_state)
        else:
            progress.set_state("stored")
        progress.close()
        return result

    async def _watch_playback(
        self, writer: UploadWriter, upload: UploadHandle, metadata: Mapping[str, str], filename: str
    ) -> None:
        """Show the first blocks to the watch that tells the socket of the uploader whether the file can be played.

        Those that are stored are read again, once in each process: the one that has stored them may have ended before it told.
        """
        sid = metadata.get("sid")
        # One that was begun by an earlier version falls with its owner.
        player = metadata.get(PLAYER_KEY) or describe_player(Identity(upload.owner))
        watch = self._playback.watch(sid, filename, writer.length, player)
        if watch is None or self._playback.has_told(upload.upload_id):
            return
        stored, _ = writer.content_state
        if not stored:
            writer.watch_blocks(watch)
            return
        with suppress(CorruptFile):  # found again, and answered, where the whole file is needed
            async for block in self._store.iter_blocks(upload, min(stored, MAX_SCANNED_BLOCKS)):
                watch.show(upload, block)
                if watch.done:
                    break

    async def _write_body(
        self, writer: UploadWriter, body: UploadBody, verifiers: Sequence[DigestVerifier], progress: Progress
    ) -> None:
        """Write the body to its end. Bytes with a checksum become durable once it was verified, others as they arrive."""
        writer.checkpoint_batches = not verifiers
        lease_kept = True
        while (
            piece := await body.read(CHECKPOINT_INTERVAL_SECONDS if writer.checkpoint_batches else None)
        ) is not None:
            if piece:
                for verifier in verifiers:
                    verifier.update(piece)
                await writer.write(piece)
                progress.set_received(writer.bytes_received, writer.length)
                lease_kept = True
            overdue = time.monotonic() - writer.checkpointed_at >= CHECKPOINT_INTERVAL_SECONDS
            if writer.checkpoint_batches and ((writer.uncheckpointed_bytes and overdue) or (lease_kept and not piece)):
                await writer.checkpoint(keep_lease=bool(piece))
                lease_kept = bool(piece)
        for verifier in verifiers:
            verifier.verify()

    async def _commit(
        self, writer: UploadWriter, name: MediaName, state: InProgressUpload, progress: Progress
    ) -> PatchResult:
        content_type = resolve_content_type(state.metadata.get("filetype", ""), name.filename)
        try:
            event = await writer.commit(
                name,
                content_type,
                on_rehash=lambda: progress.set_state("verifying"),
                metadata_json=StoredHookAnswer.of(state.metadata).join_metadata(
                    encode_metadata_of_file(parse_metadata(state.metadata.get("metadata", "")))
                ),
            )
        except AlreadyExists as error:
            await run_shielded(writer.abort(name_taken=True))
            raise lost_upload_error(name) from error
        except Gone:  # its stored bytes are damaged, and every further request would find that again
            await run_shielded(writer.abort())
            raise
        progress.set_received(writer.bytes_received)
        return PatchResult(writer.bytes_received, None, event, event.info.etag, event.info.sha256)

    async def _handle_interruption(
        self,
        writer: UploadWriter,
        request: PatchRequest,
        error: BaseException,
        blocks_before: int,
    ) -> None:
        """Make durable what may be kept. Never raises: the client sends again what is not saved here."""
        with suppress(GridcastError):
            if isinstance(error, (Gone, Conflict)) or is_store_unavailable(error):
                await writer.suspend()
            elif request.verifiers:
                await writer.truncate(blocks_before)
                if writer.upload is not None:
                    await self._store.release_lease(writer.upload)
            elif isinstance(error, QuotaExceeded):  # there is no room for the bytes that are not stored yet
                await self._suspend_unchanged(writer)
            else:
                await self._checkpoint_and_suspend(writer)

    async def _checkpoint_and_suspend(self, writer: UploadWriter) -> None:
        try:
            await writer.checkpoint(keep_lease=False)
        finally:
            await writer.suspend()
        if writer.upload is not None:
            self._content_states.put(writer.upload.upload_id, *writer.content_state)

    async def _suspend_unchanged(self, writer: UploadWriter) -> None:
        """Let go of an upload to which nothing was added. Never raises: the lease ends by itself."""
        await writer.suspend()
        if writer.upload is not None:
            with suppress(GridcastError):
                await self._store.release_lease(writer.upload)
            self._content_states.put(writer.upload.upload_id, *writer.content_state)
