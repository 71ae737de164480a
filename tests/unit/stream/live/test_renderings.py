"""Texts of a list: made once for all who ask, with links, and in a thread where they are long."""

import asyncio
import gzip

import pytest

from services.common.live.playlist import Playlist
from services.common.live.segments import Segment
from services.stream.live import renderings
from services.stream.live.renderings import HEAVY_SEGMENTS, Renderings, View, with_link
from tests.support.hls_rules import check_playlist
from tests.unit.stream.live.live_streams import Streams

pytestmark = pytest.mark.anyio

LINK = "v1.k1.eyJpIjoi-_x.abcDEF"


def make(count: int) -> tuple[Playlist, list[Segment], Renderings]:
    streams = Streams(count)
    playlist = Playlist(2)
    for epoch in streams.epochs:
        playlist.add_epoch(epoch)
    for segment in streams.segments:
        playlist.append(segment)
    return playlist, streams.segments, Renderings(playlist)


async def test_a_text_is_made_once_until_the_list_changes() -> None:
    playlist, _, texts = make(20)
    for view in (View(), View(window=10), View(delta=True), View(link=LINK), View(window=10, link=LINK)):
        plain, packed = texts.get(view, gzip=False), texts.get(view, gzip=True)
        assert plain is not None
        assert packed is not None
        assert texts.get(view, gzip=True) is packed
        assert gzip.decompress(packed) == plain
        check_playlist(plain.decode())
    before = texts.get(View(), gzip=True)
    playlist.end()
    texts.clear()
    after = texts.get(View(), gzip=True)
    assert after is not None
    assert before is not None
    assert gzip.decompress(after) == gzip.decompress(before) + b"#EXT-X-ENDLIST\n"


async def test_every_address_has_the_link_and_nothing_else_changes() -> None:
    playlist, _, texts = make(5)
    text = (texts.get(View(link=LINK), gzip=False) or b"").decode()
    assert text.count(f"?link={LINK}") == 6
    assert text.replace(f"?link={LINK}", "") == playlist.render()
    assert with_link(playlist.render(), "") == playlist.render()


async def test_long_lists_with_links_are_made_in_a_thread_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, texts = make(HEAVY_SEGMENTS + 1)
    made = []
    encode = renderings._encode

    def counted(text: str, link: str, *, gzip: bool) -> bytes:
        made.append(text)
        return encode(text, link, gzip=gzip)

    monkeypatch.setattr(renderings, "_encode", counted)
    view = View(link=LINK)
    assert texts.get(view, gzip=True) is None
    bodies = await asyncio.gather(*(texts.render(view, gzip=True) for _ in range(20)))
    assert len(made) == 1
    assert len(set(bodies)) == 1
    assert texts.get(view, gzip=True) == bodies[0]
    check_playlist(gzip.decompress(bodies[0]).decode())


async def test_a_text_that_is_late_is_not_kept() -> None:
    """The list has changed while it was made: who asked for it gets it, who asks now gets a newer one."""
    playlist, segments, texts = make(HEAVY_SEGMENTS + 1)
    view = View(link=LINK)
    late = asyncio.create_task(texts.render(view, gzip=False))
    await asyncio.sleep(0)
    playlist.append(segments[-1]._replace(number=len(segments)))
    texts.clear()
    old = await late
    new = await texts.render(view, gzip=False)
    assert new.startswith(old)
    assert len(new) > len(old)


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, texts = make(50)
    size = len(texts.get(View(), gzip=False) or b"")
    monkeypatch.setattr(renderings, "MAX_KEPT_BYTES", 3 * size)
    for seconds in range(1, 200):
        assert texts.get(View(window=seconds), gzip=False)
    assert texts._kept_bytes <= 3 * size
    assert texts._kept_bytes == sum(map(len, texts._kept.values()))
