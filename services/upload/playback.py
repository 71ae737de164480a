"""Tells the socket of an uploader whether the file can be played before it is complete, and where: `file.playable`.

Only uploads with a socket are looked at: no other client would learn the address. Their first blocks are, as they pass.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from services.common.aio.cancellation import cancel_and_wait
from services.common.bus.publisher import EventPublisher
from services.common.containers.layout import LayoutScanner, MediaLayout
from services.common.errors import GridcastError
from services.common.store.play_addresses import make_play_address
from services.common.store.upload_store import UploadHandle
from services.common.telemetry import metrics

PLAYABLE_TYPE = "file.playable"
PLAYER_KEY = "player"
"""In the metadata of a resumable upload: who began it, as its play address says."""
SEND_INTERVAL_SECONDS = 1.0
"""Between two attempts while Redis is away, or no socket with that id is connected."""
SEND_ATTEMPTS = 30
MAX_PENDING_EVENTS = 1024
MAX_TOLD_UPLOADS = 4096
"""Uploads of which this process remembers that it has told their layout."""

_log = logging.getLogger("gridcast.upload")


class PlaybackWatch:
    """Is shown the blocks of one upload from its first one on, until it is `done`."""

    def __init__(self, reporter: "PlaybackReporter", sid: str, filename: str, length: int | None, player: str) -> None:
        self._reporter = reporter
        self._player = player
        self._sid = sid
        self._filename = filename
        self._length = length
        self._scanner = LayoutScanner()

    @property
    def done(self) -> bool:
        """Whether no further block is wanted."""
        return self._scanner.done

    def show(self, upload: UploadHandle, block: bytes) -> bool:
        """Look at the next block. Tells the layout once it is known; returns whether the file is playable from now on."""
        self._scanner.show(block)
        if not self._scanner.done:
            return False
        self._reporter.note_told(upload.upload_id)
        layout, address = self._scanner.layout, make_play_address(upload.upload_id)
        if layout is None or address is None:
            return False
        address = self._reporter.seal(address, self._player)
        self._reporter.tell(self._sid, describe_layout(layout, self._filename, self._length, address))
        metrics.PLAYABLE_UPLOADS.labels(layout.kind).inc()
        return layout.playable


def describe_layout(layout: MediaLayout, filename: str, length: int | None, address: str) -> dict[str, object]:
    """The data of the event. What is not playable has no address."""
    return {
        "filename": filename,
        "total": length,
        "content_type": layout.content_type,
        "layout": layout.kind,
        "playable": layout.playable,
        "reason": layout.reason,
        "address": f"/upload/{address}/stream" if layout.playable else None,
        "list": f"/upload/{address}/media.m3u8" if layout.kind == "fragmented" else None,
    }


class PlaybackReporter:
    """Sends the events of one process, in the background: whether Redis is there makes no difference to an upload.

    `seal` adds to an address who began the upload; None where authentication is off.
    """

    def __init__(self, publisher: EventPublisher, seal: Callable[[str, str], str] | None = None) -> None:
        self._publisher = publisher
        self._seal = seal
        self._pending: set[asyncio.Task[None]] = set()
        self._told: OrderedDict[str, None] = OrderedDict()

    def watch(self, sid: str | None, filename: str, length: int | None, player: str) -> PlaybackWatch | None:
        """Return what is to be shown the first blocks of an upload of that socket; None where there is no socket.

        `player` says who began the upload (`auth.play_seals.describe_player`).
        """
        return PlaybackWatch(self, sid, filename, length, player) if sid else None

    def seal(self, address: str, player: str) -> str:
        """Return the address for the event: with authentication on it ends with the token that began the upload."""
        return address if self._seal is None else self._seal(address, player)

    def has_told(self, upload_id: str) -> bool:
        """Whether this process has found out the layout of an upload."""
        return upload_id in self._told

    def note_told(self, upload_id: str) -> None:
        """Remember it, for a while."""
        self._told[upload_id] = None
        if len(self._told) > MAX_TOLD_UPLOADS:
            self._told.popitem(last=False)

    def tell(self, sid: str, data: dict[str, object]) -> None:
        """Send an event to one socket. Dropped where very many wait for Redis: the upload does not depend on it."""
        if len(self._pending) >= MAX_PENDING_EVENTS:
            return
        task = asyncio.create_task(self._send(sid, data))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def aclose(self) -> None:
        """Cancel what was not sent."""
        await cancel_and_wait(*self._pending)

    async def _send(self, sid: str, data: dict[str, object]) -> None:
        for _ in range(SEND_ATTEMPTS):
            try:
                if (await self._publisher.send(sid, PLAYABLE_TYPE, data)).status != "unknown":
                    return
            except GridcastError as error:
                _log.debug("%s not sent yet: %s", PLAYABLE_TYPE, error)
            await asyncio.sleep(SEND_INTERVAL_SECONDS)
