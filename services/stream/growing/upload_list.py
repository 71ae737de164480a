"""GET and HEAD /upload/{address}/media.m3u8: the HLS list of an upload that is fragmented MP4, which grows with it.

Its segments are ranges of /upload/{address}/media.mp4, which is the same as /stream. The right to read is the address, as there.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

from starlette.responses import Response

from services.common.asgi import Receive, Scope, Send
from services.common.errors import InvalidLink, InvalidToken, NotFound, ServiceUnavailable
from services.common.server.connection_info import connection_info
from services.common.store.errors import CorruptFile
from services.stream.growing.followed_upload import FollowedUpload, Starved, upload_ended
from services.stream.growing.fragment_list import FragmentList, UnlistedMedia

ANSWER_SECONDS = 8.0
PlayUpload = Callable[[str], AbstractContextManager[FollowedUpload]]


class _Listing:
    """The list of one upload, read by one request at a time."""

    def __init__(self) -> None:
        self.fragments = FragmentList()
        self.lock = asyncio.Lock()
        self.fault = ""


class UploadListRoute:
    """The route as an ASGI callable. `play` follows an upload while a request is answered."""

    def __init__(self, template: str, play: PlayUpload) -> None:
        self._template = template
        self._play = play
        self._listings: WeakKeyDictionary[FollowedUpload, _Listing] = WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the list. Raises NotFound where there is none (yet), Gone, ServiceUnavailable."""
        scope["route"] = self._template
        try:
            with self._play(scope["path_params"]["address"]) as upload:
                async with asyncio.timeout(ANSWER_SECONDS):
                    text = await self._render(upload, connection_info(scope).peer_disconnected)
        except (TimeoutError, Starved, CorruptFile):
            raise ServiceUnavailable("the bytes of this upload cannot be read") from None
        except (InvalidToken, InvalidLink):
            raise upload_ended() from None
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        await Response(text, media_type="application/vnd.apple.mpegurl", headers=headers)(scope, receive, send)

    async def _render(self, upload: FollowedUpload, is_disconnected: Callable[[], bool]) -> str:
        await upload.look()
        listing = self._listings.setdefault(upload, _Listing())

        async def read(position: int, size: int) -> bytes:
            found = bytearray()
            while len(found) < size:
                piece = await upload.read(position + len(found), is_disconnected)
                if not piece:
                    raise ServiceUnavailable("the bytes of this upload are gone")
                found += piece[: size - len(found)]
            return bytes(found)

        async with listing.lock:
            if not listing.fault:
                try:
                    is_complete = upload.file is not None
                    await listing.fragments.advance(read, upload.available, is_complete=is_complete)
                except UnlistedMedia as error:
                    listing.fault = str(error)
            if listing.fault:
                raise NotFound(f"this upload has no list: {listing.fault}")
            if not listing.fragments.segments:
                raise NotFound("there is nothing to be listed of this upload yet")
            return listing.fragments.render("media.mp4")
