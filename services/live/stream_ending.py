"""Ends streams: the last segment, the reserved header, the commit as a file, then the state. Any process can do or finish it.

Each step can be repeated. A process that is killed between two of them leaves a stream that has not ended, and the loop over idle
streams of any replica ends it from what is stored.
"""

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from services.common.aio.singleflight import SingleFlight
from services.common.containers.facts import facts_json
from services.common.containers.scanner import FactsScanner
from services.common.errors import AlreadyExists, Conflict, Gone, NotFound
from services.common.live.header import render_header
from services.common.live.initialisation import InitSegment, read_init
from services.common.live.segments import Segment
from services.common.media import MediaInfo, MediaName
from services.common.store.growing_files import file_etag
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import DELETED, MAX_SEGMENTS_READ, LivePosition, LiveStream
from services.common.store.upload_store import AcquiredUpload, FinishedUpload, OutboxEvent, StoredFile, UploadHandle
from services.common.uploads.locks import UploadLocks
from services.live.hook_answers import metadata_of_file
from services.live.live_events import LiveEvents
from services.live.stream_writer import LiveStores, StreamWriter

END_WAIT_SECONDS = 5.0
"""How long an end by another process is waited for."""
END_POLL_SECONDS = 0.2
MAX_NUMBERED_NAMES = 100
"""Names that are tried where another file has taken that of the stream."""
RENAMED_TTL_SECONDS = 86400.0
"""How long beyond the grace a recording that was given another name waits for its commit."""

_STREAM_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_log = logging.getLogger("gridcast.live")
PublishEvent = Callable[[OutboxEvent], Awaitable[bool]]


class StreamEnder:
    """Ends the streams of one store.

    `publish_event` publishes the event of the commit. `on_file` is called with a file that has no SHA-256 yet.
    """

    def __init__(
        self,
        stores: LiveStores,
        locks: UploadLocks,
        events: LiveEvents,
        publish_event: PublishEvent,
        on_file: Callable[[MediaInfo], object],
    ) -> None:
        self._stores = stores
        self._locks = locks
        self._events = events
        self._publish_event = publish_event
        self._on_file = on_file
        self._endings: dict[str, SingleFlight[LiveStream]] = {}

    async def end(self, stream_id: str, reason: str, *, preempts: bool = True) -> LiveStream:
        """End a stream for a reason, and return it; one that has ended stays as it is. Raises NotFound, ServiceUnavailable.

        A publisher of this process is stopped first, so that what it has sent is kept; that of another one is fenced off. Without
        `preempts` the caller is the publisher. Callers of this process share one end, and that of another process is waited for:
        each would fence off the one before it. Raises Conflict where a publisher goes on at that moment.
        """
        if not preempts:  # an end that is shared may be waiting for this caller
            return await self._end(stream_id, reason, preempts=False)
        ending = self._endings.get(stream_id)
        if ending is None:
            ending = self._endings[stream_id] = SingleFlight(partial(self._end_in_turn, stream_id, reason))
        return await ending()

    async def _end_in_turn(self, stream_id: str, reason: str) -> LiveStream:
        try:
            return await self._end(stream_id, reason, preempts=True)
        except Conflict:
            deadline = time.monotonic() + END_WAIT_SECONDS
            while (stream := await self.get(stream_id)).state != "ended":
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(END_POLL_SECONDS)
            return stream
        finally:
            del self._endings[stream_id]

    async def _end(self, stream_id: str, reason: str, *, preempts: bool) -> LiveStream:
        stream = await self.get(stream_id)
        if stream.state == "ended":
            return stream
        if preempts:
            await self._locks.preempt(stream_id)
        writer: StreamWriter | None = None
        try:
            writer = await StreamWriter.open(self._stores, stream, "", lambda _: None)
            await self.finish(writer, reason)
        except Gone:
            await self._settle(await self.get(stream_id), reason)
        finally:
            if writer is not None:
                await writer.close()
        return await self.get(stream_id)

    async def get(self, stream_id: str) -> LiveStream:
        """Return a stream. Raises NotFound, also for one that was deleted."""
        stream = await self.read(stream_id)
        if stream.was_deleted:
            raise NotFound("there is no such stream")
        return stream

    async def read(self, stream_id: str) -> LiveStream:
        """Return a stream, also one that was deleted. Raises NotFound."""
        stream = await self._stores.live.get_stream(stream_id) if _STREAM_ID.fullmatch(stream_id) else None
        if stream is None:
            raise NotFound("there is no such stream")
        return stream

    async def delete(self, stream_id: str) -> None:
        """Throw a stream away with what came of it; the file of one that has ended stays. Raises NotFound, ServiceUnavailable."""
        stream = await self.get(stream_id)
        if stream.state != "ended":
            await self._locks.preempt(stream_id)
            acquired = await self._stores.uploads.acquire(stream.new.upload_id) or await self._acquire_renamed(stream)
            if not isinstance(acquired, FinishedUpload):
                fencing_token = stream.fencing_token
                if acquired is not None:
                    fencing_token = max(fencing_token, stream.first_fence + acquired[0].fencing_token)
                    # First, so that what is repeated finds it gone. Another process may be in the middle of an insert.
                    await self._stores.uploads.abort(acquired[0], second_purge=True)
                await self._end_without_file(stream, fencing_token, DELETED)
                return  # the record stays for a day: its publisher gets 410 instead of 404
        await self._stores.live.delete_stream(stream_id)
        self._events.wake_readers(stream_id, -1, "ended")

    async def finish(self, writer: StreamWriter, reason: str) -> None:
        """End the stream of a writer: as a file where it has a segment. Raises Conflict, Gone, ServiceUnavailable."""
        await writer.take(writer.session.end())
        position = (await writer.flush()).position
        if position.last_segment <= writer.stream.before.last_segment:
            await self._end_without_file(writer.stream, writer.fence, reason)
            await self._stores.uploads.abort(writer.upload)
            return
        event = await self.commit_file(writer, position)
        await self._note_end(writer.stream, writer.fence, reason, event.info)
        await self._publish_event(event)

    async def close_file(self, writer: StreamWriter, position: LivePosition) -> MediaInfo:
        """Make a file of what a stream has, which goes on in another one; nothing is open. Raises Conflict, ServiceUnavailable."""
        event = await self.commit_file(writer, position)
        await self._publish_event(event)
        return event.info

    async def commit_file(self, writer: StreamWriter, position: LivePosition) -> OutboxEvent:
        """Write the last block and the header, and commit; the position is stored. Raises Conflict, ServiceUnavailable."""
        await writer.write_last_block()
        stream = await self.get(writer.stream.new.id)
        init = read_init(stream.last_epochs[0].init)
        header = render_header(init, await self.read_segments(stream), BLOCK_SIZE)
        await self._stores.growing.place_header(writer.upload, header)
        return await self._commit(writer.upload, writer.stream, init, header, position.offset)

    async def find_committed(self, stream: LiveStream) -> MediaInfo | None:
        """Return the file of a stream whose upload is not there any more under its name. Raises Conflict, ServiceUnavailable."""
        return await self._stores.live.find_file(stream) or await self._commit_renamed(stream)

    async def read_segments(self, stream: LiveStream) -> list[Segment]:
        """Return all segments of the last file; pages are read at the same time, because the end of a stream waits for them."""
        first = stream.before.last_segment + 1
        firsts = range(first, stream.position.last_segment + 1, MAX_SEGMENTS_READ)
        pages = await asyncio.gather(*(self._stores.live.read_segments(stream.new.id, first) for first in firsts))
        return list(itertools.chain.from_iterable(pages))

    async def _commit(
        self, upload: UploadHandle, stream: LiveStream, init: InitSegment, header: bytes, length: int
    ) -> OutboxEvent:
        """Commit under the name of the stream, or under a numbered one where another file has taken it meanwhile."""
        content_type = "video/mp4" if init.width else "audio/mp4"
        scanner = FactsScanner()
        scanner.feed(header)
        facts = facts_json(scanner.finish(length))
        ttl = stream.new.grace + RENAMED_TTL_SECONDS
        first = upload.name or stream.new.name  # a recording that was given a numbered name has it already
        for name in [first, *(other for other in numbered_names(stream.new.name) if other != first)]:
            try:
                if name != first:
                    # With a lifetime: a process that is killed before the commit leaves it to the next one.
                    upload = await self._stores.uploads.assign_name(upload, name, ttl=ttl)
                etag, metadata = file_etag(upload, length), metadata_of_file(stream.new.limits_json)
                stored = StoredFile(length, content_type, None, etag, metadata, media_facts_json=facts)
                return await self._stores.uploads.commit(upload, stored)
            except AlreadyExists:
                _log.warning("the name of live stream %s is taken", stream.new.id)
        raise Conflict("the name of this stream and those that follow it are taken")

    async def _end_without_file(self, stream: LiveStream, fencing_token: int, reason: str) -> None:
        await self._note_end(stream, fencing_token, reason, None)

    async def _settle(self, stream: LiveStream, reason: str) -> None:
        """Note the end of a stream whose upload is committed or gone, or has another name: a process was killed on the way."""
        file = await self.find_committed(stream)
        if file is None:
            state = await self._stores.uploads.get_durable_info(stream.new.upload_id)
            if not (state is None or isinstance(state, FinishedUpload)):
                raise Gone("the stored data of this stream is damaged")
        await self._note_end(stream, stream.fencing_token, reason, file)

    async def _commit_renamed(self, stream: LiveStream) -> MediaInfo | None:
        """Commit what was given a numbered name, and not committed; None where nothing was. Its last block and header are there."""
        acquired = await self._acquire_renamed(stream)
        if not isinstance(acquired, tuple):
            return None
        init = read_init(stream.last_epochs[0].init)
        header = render_header(init, await self.read_segments(stream), BLOCK_SIZE)
        event = await self._commit(acquired[0], stream, init, header, stream.position.offset)
        await self._publish_event(event)
        return event.info

    async def _acquire_renamed(self, stream: LiveStream) -> AcquiredUpload | FinishedUpload | None:
        """Acquire the upload of a stream under the numbered name that it was given; None where it has none."""
        upload_id = await self._stores.live.find_upload(stream, numbered_names(stream.new.name))
        return None if upload_id is None else await self._stores.uploads.acquire(upload_id)

    async def _note_end(self, stream: LiveStream, fencing_token: int, reason: str, file: MediaInfo | None) -> None:
        new = stream.new
        revision = None if file is None else file.revision
        if not await self._stores.live.set_state(new.id, fencing_token, "ended", reason, revision):
            return
        ended = await self._stores.live.get_stream(new.id) or stream
        files = await self.find_files(ended, file)
        last = file or (files[-1] if files and ended.revision is not None else None)
        self._events.wake_readers(new.id, ended.position.last_segment, "ended")
        data = {"reason": reason, "file": describe_file(last), "files": describe_files(files)}
        self._events.publish(new.id, "live.ended", data)
        if file is not None:
            self.note_file(file)

    async def find_files(self, stream: LiveStream, last: MediaInfo | None = None) -> list[MediaInfo]:
        """Return the files that a stream has become so far, in their order; those that were deleted are missing.

        `last`: that of a stream that has ended, where it is known.
        """
        files = stream.files if last is None else stream.files[: len(stream.recordings)]
        found = [await self._stores.live.find_file(one) for one in files]
        return [file for file in (*found, last) if file is not None]

    def note_file(self, file: MediaInfo) -> None:
        """Take note of a file that may have no digest yet."""
        if file.sha256 is None:
            self._on_file(file)


def describe_file(file: MediaInfo | None) -> dict[str, Any] | None:
    """What events and answers say of the file of a stream."""
    if file is None:
        return None
    return {
        "folder": file.folder,
        "filename": file.filename,
        "revision": file.revision,
        "etag": file.etag,
        "length": file.length,
    }


def describe_files(files: Sequence[MediaInfo]) -> list[dict[str, Any] | None]:
    """What events and answers say of the files of a stream."""
    return [describe_file(file) for file in files]


def numbered_names(name: MediaName) -> list[MediaName]:
    """Return the names to try where another file has taken this one."""
    return [numbered_name(name, number) for number in range(2, MAX_NUMBERED_NAMES)]


def numbered_name(name: MediaName, number: int) -> MediaName:
    """Return the name with a number in front of its suffix: `talk (2).mp4`. A long one is cut, so that it stays a name."""
    suffix = PurePosixPath(name.filename).suffix[:32]
    stem, addition = name.filename[: len(name.filename) - len(suffix)] if suffix else name.filename, f" ({number})"
    while len(f"{stem}{addition}{suffix}".encode()) > 255:
        stem = stem[:-1]
    return MediaName(name.folder, f"{stem}{addition}{suffix}")
