"""Goes on with a stream in another file, where its publisher's media do not fit into the one it has (ADR 54).

The steps are those of an end, and then one update of the stream: note that the file is closed, commit it, make an upload, go on in
it. Each can be repeated. A process that is killed between two of them leaves a stream whose publisher is noted as one whose file is
closed; the request that comes next finishes the change, or the loop over idle streams ends the stream, from what is stored.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common.errors import AlreadyExists, Conflict, Gone, GridcastError, ServiceUnavailable
from services.common.media import MediaInfo
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import MAX_RECORDINGS, LiveStream, NewRecording
from services.common.store.upload_store import NewUpload, UploadHandle
from services.live.publishers import CLOSING, is_closing, publisher_of
from services.live.session import pending_of_next
from services.live.stream_ending import StreamEnder, numbered_names
from services.live.stream_writer import STORE_WAIT_SECONDS, WRITE_RETRY_SECONDS, LiveStores, StreamWriter

UPLOAD_TTL_SECONDS = 90_000.0
"""The upload of another file expires this long after the grace of its stream."""

_log = logging.getLogger("gridcast.live")
_Result = TypeVar("_Result")


class Recordings:
    """Closes files of streams that go on, and begins the next ones."""

    def __init__(self, stores: LiveStores, ender: StreamEnder) -> None:
        self._stores = stores
        self._ender = ender

    async def change(self, writer: StreamWriter, on_lost: Callable[[Conflict], object]) -> StreamWriter:
        """Close the file of a writer, and return the writer of the next one. The writer itself is not to be used any more.

        Raises Conflict, Gone, QuotaExceeded, ServiceUnavailable.
        """
        stream = await self._close(writer)
        # Another publisher may have come to the next file already: this one would go on in the middle of what that one sends.
        return await StreamWriter.open(
            self._stores, stream, publisher_of(stream), on_lost, fencing_token=stream.first_fence
        )

    async def finish_change(self, stream: LiveStream) -> LiveStream:
        """Finish what another process has begun, and return the stream; without a change it stays as it is. Raises as `change`."""
        if not is_closing(stream):
            return stream
        try:
            writer = await StreamWriter.open(self._stores, stream, stream.publisher, lambda _: None)
        except Gone:
            stream = await self._ender.read(stream.new.id)
            if not is_closing(stream):  # another process has finished it
                return stream
            file = await self._ender.find_committed(stream)
            if file is None:
                raise
            pending = await self._stores.live.read_pending(stream.new.id)
            return await self._begin(stream, stream.fencing_token, file, pending)
        try:
            return await self._close(writer)
        finally:
            await writer.close()

    async def _close(self, writer: StreamWriter) -> LiveStream:
        stream_id, publisher = writer.stream.new.id, f"{CLOSING}{publisher_of(writer.stream)}"
        await writer.take(writer.session.close_file())
        pending = writer.session.pending
        position = (await writer.flush()).position
        stream = await self._stores.live.set_publisher(stream_id, writer.fence, publisher)
        file = await self._ender.close_file(writer, position)
        await writer.close()
        return await self._begin(stream, writer.fence, file, pending)

    async def _begin(self, stream: LiveStream, fencing_token: int, file: MediaInfo, pending: bytes) -> LiveStream:
        """Make an upload, and go on in it. Where another process has done so, go on in its upload."""
        self._ender.note_file(file)
        stream_id, position, epoch = stream.new.id, stream.position, stream.last_epochs[-1]
        upload = await self._create_upload(stream)
        new = NewRecording(
            upload.upload_id,
            file.revision,
            stream.before.milliseconds + position.file_end * 1000 // position.timescale,
            epoch.date + position.file_end / position.timescale - epoch.file_time / epoch.timescale,
            pending_of_next(pending),
            publisher_of(stream),
        )
        try:
            await _repeat(
                lambda: self._stores.live.begin_recording(stream_id, fencing_token, stream.new.upload_id, new)
            )
        except (Conflict, Gone):
            await self._drop(upload)
            raise
        begun = await _repeat(lambda: self._ender.read(stream_id))
        if begun.new.upload_id != upload.upload_id:
            await self._drop(upload)
        else:
            await self._stores.uploads.release_lease(upload)
        if begun.state == "ended":
            raise Gone("this stream has ended")
        return begun

    async def _create_upload(self, stream: LiveStream) -> UploadHandle:
        new = stream.new
        upload = NewUpload(None, UPLOAD_TTL_SECONDS + new.grace, {"live": new.id}, new.id, new.owner, BLOCK_SIZE)
        for name in (new.name, *numbered_names(new.name)):
            try:
                return await self._stores.uploads.create_upload(name, upload)
            except AlreadyExists:
                continue
        raise Conflict("the name of this stream and those that follow it are taken")

    async def _drop(self, upload: UploadHandle) -> None:
        try:
            await self._stores.uploads.abort(upload)
        except GridcastError as error:
            _log.info("an upload of a live stream expires by itself: %s", error)


def may_change(stream: LiveStream) -> bool:
    """Whether a stream may have another file."""
    return len(stream.recordings) + 1 < MAX_RECORDINGS


async def _repeat(call: Callable[[], Awaitable[_Result]]) -> _Result:
    """Await a call that may be repeated, and repeat it while the store is unavailable."""
    deadline = time.monotonic() + STORE_WAIT_SECONDS
    while True:
        try:
            return await call()
        except ServiceUnavailable:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(WRITE_RETRY_SECONDS)
