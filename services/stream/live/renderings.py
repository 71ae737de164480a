"""The texts of one stream's list: each is made once for all who ask for the same before the next segment comes."""

import asyncio
import gzip as gzip_format
from typing import NamedTuple

from services.common.aio.singleflight import SingleFlight
from services.common.live.playlist import Playlist

MAX_KEPT_BYTES = 1 << 20
"""Bytes of the texts of one stream. Beyond it the oldest is made again; the newest is kept however long it is."""
HEAVY_SEGMENTS = 1_000
"""A whole list of more segments whose addresses have a link is made in a thread: 43,200 of them are 18 MB of text."""
_GZIP_LEVEL = 1
"""Of texts that are not kept compressed: deltas and windows are short, and addresses with a link repeat themselves."""


class View(NamedTuple):
    """Which of the lists: all of it, a delta update, or the last `window` seconds; 0: all. `link` is written into each address."""

    window: int = 0
    delta: bool = False
    link: str = ""


class Renderings:
    """The texts of one list. `clear` says that the list has changed."""

    def __init__(self, playlist: Playlist) -> None:
        self._playlist = playlist
        self._kept: dict[tuple[View, bool], bytes] = {}
        self._kept_bytes = 0
        self._in_progress: dict[tuple[View, bool], SingleFlight[bytes]] = {}

    def clear(self) -> None:
        """Drop all texts."""
        self._kept.clear()
        self._kept_bytes = 0
        self._in_progress.clear()

    def get(self, view: View, *, gzip: bool) -> bytes | None:
        """Return a text; None where it takes so long to make that `render` must be awaited."""
        key = (view, gzip)
        body = self._kept.get(key)
        if body is None and not self._is_heavy(view):
            if gzip and not view.link and not view.delta and not view.window:
                body = self._playlist.render_gzip()
            else:
                body = _encode(self._text(view), view.link, gzip=gzip)
            self._keep(key, body)
        return body

    async def render(self, view: View, *, gzip: bool) -> bytes:
        """Return a text."""
        body = self.get(view, gzip=gzip)
        if body is not None:
            return body
        key = (view, gzip)
        if (flight := self._in_progress.get(key)) is None:
            text, flights = self._text(view), self._in_progress

            async def encode() -> bytes:
                made = await asyncio.to_thread(_encode, text, view.link, gzip=gzip)
                if flights.get(key) is flight:  # the list has not changed meanwhile
                    del flights[key]
                    self._keep(key, made)
                return made

            flight = self._in_progress[key] = SingleFlight(encode)
        return await flight()

    def _is_heavy(self, view: View) -> bool:
        return bool(view.link) and not view.window and not view.delta and self._playlist.last_number >= HEAVY_SEGMENTS

    def _text(self, view: View) -> str:
        if view.window:
            return self._playlist.render_window(view.window)
        return self._playlist.render_delta() if view.delta else self._playlist.render()

    def _keep(self, key: tuple[View, bool], body: bytes) -> None:
        self._kept[key] = body
        self._kept_bytes += len(body)
        while self._kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))


def with_link(text: str, link: str) -> str:
    """Return a list whose addresses have a signed link, which has no character that would be percent-encoded."""
    if not link:
        return text
    query = f"?link={link}"
    return text.replace(".m4s\n", f".m4s{query}\n").replace('/init.mp4"', f'/init.mp4{query}"')


def _encode(text: str, link: str, *, gzip: bool) -> bytes:
    body = with_link(text, link).encode("ascii")
    if not gzip:
        return body
    return gzip_format.compress(body, _GZIP_LEVEL, mtime=0)
