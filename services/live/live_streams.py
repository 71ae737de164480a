"""Makes live streams, lists them, and describes them."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from services.common.auth.identity import Identity
from services.common.errors import AlreadyExists, GridcastError, TooManyRequests
from services.common.live.initialisation import read_init
from services.common.media import MediaName
from services.common.store.limits import BLOCK_SIZE
from services.common.store.live_store import MAX_LISTED_STREAMS, LiveState, LiveStream, NewStream
from services.common.store.upload_store import NewUpload
from services.common.uploads.cleanup import CleanupRunner
from services.common.webhooks.hook_protocol import ALLOWED, HookAnswer
from services.live.hook_answers import encode_limits
from services.live.intake import describe_media
from services.live.publish_token import digest_token, make_token
from services.live.stream_ending import describe_file
from services.live.stream_limits import StreamLimits
from services.live.stream_writer import LiveStores

ID_BYTES = 16
MARGIN_SECONDS = 3600.0
"""An upload expires so long after the stream has ended for silence."""


@dataclass(frozen=True, slots=True)
class WantedStream:
    """What a caller asks for. `window`, `grace` in seconds, `target` in whole seconds. `answer` is that of the upload hook."""

    name: MediaName
    title: str
    window: int | None
    takeover: bool
    grace: float
    target: int
    answer: HookAnswer = ALLOWED


class LiveStreams:
    """The streams of one store. `token_ttl` in seconds; `max_per_owner` 0 for no limit.

    `count_viewers` returns how many watch a stream, None where that is not known.
    """

    def __init__(
        self,
        stores: LiveStores,
        cleanup: CleanupRunner,
        limits: StreamLimits,
        token_ttl: float,
        max_per_owner: int,
        count_viewers: Callable[[str], Awaitable[int | None]],
    ) -> None:
        self.limits = limits
        self._stores = stores
        self._cleanup = cleanup
        self._token_ttl = token_ttl
        self._max_per_owner = max_per_owner
        self._count_viewers = count_viewers

    async def create(self, wanted: WantedStream, owner: str, client: str) -> tuple[LiveStream, str]:
        """Make a stream of the subject `owner`, and return it with its publish token, which is not kept.

        Raises AlreadyExists where its name has a file or another stream, TooManyRequests, QuotaExceeded.
        """
        if self._max_per_owner and owner and await self._stores.live.count_streams(owner) >= self._max_per_owner:
            raise TooManyRequests(f"you have {self._max_per_owner} live streams, the most allowed")
        if await self._stores.live.find_unended(wanted.name):
            raise AlreadyExists(wanted.name.folder, wanted.name.filename)
        stream_id, token = secrets.token_hex(ID_BYTES), make_token()
        ttl = max(86400.0, self._token_ttl, wanted.grace) + wanted.grace + MARGIN_SECONDS
        new_upload = NewUpload(None, ttl, {"live": stream_id}, client, owner, BLOCK_SIZE)
        upload = await self._stores.uploads.create_upload(wanted.name, new_upload)
        try:
            await self._stores.live.create_stream(
                NewStream(
                    stream_id,
                    upload.upload_id,
                    wanted.name,
                    owner,
                    wanted.title,
                    wanted.target,
                    wanted.grace,
                    wanted.takeover,
                    wanted.window,
                    digest_token(token),
                    datetime.now(UTC) + timedelta(seconds=self._token_ttl),
                    encode_limits(self.limits, wanted.answer),
                )
            )
            await self._stores.uploads.release_lease(upload)
            stream = await self._get(stream_id)
            # Another request may have made one since it was looked for: the name is that of the older one.
            oldest = next(iter(await self._stores.live.find_unended(wanted.name)), stream)
            if oldest.new.id != stream_id:
                raise AlreadyExists(wanted.name.folder, wanted.name.filename)  # noqa: TRY301
        except BaseException as error:
            await self._cleanup.run_after(error, self._remove(stream_id, upload.upload_id))
            raise
        return stream, token

    async def _get(self, stream_id: str) -> LiveStream:
        stream = await self._stores.live.get_stream(stream_id)
        if stream is None:
            raise RuntimeError("the stream that was made is not there")
        return stream

    async def _remove(self, stream_id: str, upload_id: str) -> None:
        try:
            acquired = await self._stores.uploads.acquire(upload_id)
            if isinstance(acquired, tuple):
                await self._stores.uploads.abort(acquired[0])
            await self._stores.live.delete_stream(stream_id)
        except GridcastError:
            return  # the upload expires

    async def list(
        self, states: tuple[LiveState, ...], identity: Identity | None, after: str, limit: int
    ) -> tuple[list[LiveStream], str | None]:
        """Return a page of the streams whose folder a caller may read, and the key to continue with, None at the end."""
        found: list[LiveStream] = []
        while True:
            page = await self._stores.live.list_streams(states, after=after, limit=MAX_LISTED_STREAMS)
            for stream in page:
                after = stream.new.id
                if stream.was_deleted:
                    continue
                if identity is None or identity.rights.may_folder("read", stream.new.name.folder):
                    found.append(stream)
                if len(found) == limit:
                    return found, after
            if len(page) < MAX_LISTED_STREAMS:
                return found, None

    async def describe(self, stream: LiveStream, *, with_media: bool = True) -> dict[str, Any]:
        """Return what is answered of a stream. Without `with_media` its codecs and its file are left out, as lists do."""
        new, position, before = stream.new, stream.position, stream.before
        members: dict[str, Any] = {
            "id": new.id,
            "state": stream.state,
            "title": new.title,
            "folder": new.name.folder,
            "filename": new.name.filename,
            "owner": new.owner or None,
            "duration": round(before.milliseconds / 1000 + position.file_end / position.timescale, 3),
            "bytes": before.bytes + position.offset,
            "segments": position.last_segment + 1,
            "created_at": _format(stream.created_at),
            "started_at": _format(stream.started_at),
            "ended_at": _format(stream.ended_at),
            "reason": stream.reason or None,
            "playlist": f"/live/{new.id}/index.m3u8",
            "window": new.window,
            "takeover": new.takeover,
            "grace": new.grace,
            "target": new.target,
        }
        if with_media:
            init = read_init(stream.epochs[0].init) if stream.epochs else None
            media = describe_media(new.id, init)
            members |= {key: media[key] for key in ("codecs", "width", "height")}
            files = [describe_file(await self._stores.live.find_file(one)) for one in stream.files]
            members["files"] = [file for file in files if file is not None]
            members["file"] = files[-1] if files and stream.revision is not None else None
            members["viewers"] = None if stream.state == "ended" else await self._count_viewers(new.id)
        return members


def describe_limits(limits: StreamLimits, token_expires_at: datetime) -> dict[str, Any]:
    """What the maker of a stream is answered of its limits."""
    return {
        "bytes": limits.bytes,
        "duration": limits.duration,
        "rate": limits.rate or None,
        "speed": limits.speed or None,
        "token_expires_at": _format(token_expires_at),
    }


def _format(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
